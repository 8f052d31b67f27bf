"""Where the files of an emulated run go."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ipseclab.lab.keys import KEYS_FOLDER

PARTS_FOLDER = "parts"
LOGS_FOLDER = "logs"
NODES_FOLDER = "nodes"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a run's files go."""

    out: Path

    @property
    def parts(self) -> Path:
        """The processes' own traces and captures, until they are joined."""
        return self.out / PARTS_FOLDER

    @property
    def logs(self) -> Path:
        """What the processes say on standard output and error."""
        return self.out / LOGS_FOLDER

    def make_fresh(self) -> None:
        """Make the folders; what a run that was killed has left of its parts and keys goes."""
        for folder in (self.parts, self.out / KEYS_FOLDER):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.parts, self.logs):
            folder.mkdir(parents=True, exist_ok=True)

    def remove_parts(self) -> None:
        """Remove the parts, which have been joined, and the logs in which nothing stands."""
        shutil.rmtree(self.parts)
        for path in self.logs.glob("*.log"):
            if path.stat().st_size == 0:
                path.unlink()

    def part(self, name: str) -> Path:
        """A process's trace."""
        return self.parts / f"{name}.jsonl"

    def of_node(self, name: str) -> Path:
        """What a node has of its own."""
        return self.out / NODES_FOLDER / name

    def log(self, name: str) -> Path:
        """A process's log."""
        return self.logs / f"{name}.log"
