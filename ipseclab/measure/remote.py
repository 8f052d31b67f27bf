"""A run on a machine of a cluster: its job comes as text, its files go back as octets.

No file system is shared. Each thread of a cluster's worker keeps a worker process of ours
(`measure/pool.py`), which does one run after the other in temporary folders.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from ipseclab.measure.job import JOB_FILE
from ipseclab.measure.pool import Worker, how_it_died
from ipseclab.measure.results import ROW_FILE, sources_digest, write_atomic

DIED = "died"
"""The kind of answer for a run whose process ended over it."""

_own = threading.local()


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a run: the worker's answer, and the files of its folder by their paths in it."""

    answer: dict[str, str]
    files: dict[str, bytes] = field(default_factory=dict)


def do_run(document: str, sources: str) -> Done:
    """Do the run that a `run.json` describes. `sources` is the digest of the program that asks."""
    if sources_digest() != sources:
        missing = f"the cluster has another ipseclab: sources {sources_digest()}, here {sources}"
        remedy = "install the same on all of its machines"
        return Done({"kind": "EnvironmentLacks", "missing": missing, "remedy": remedy})
    with TemporaryDirectory(prefix="ipseclab-") as base:
        folder = Path(base)
        (folder / JOB_FILE).write_text(document, encoding="utf-8")
        worker = _worker()
        worker.begin(folder)
        answer = worker.answer()
        if answer is None:
            status = worker.status()
            worker.end()
            del _own.worker
            answer = {"kind": DIED, "how": how_it_died(status), "killed": "yes" * (status < 0)}
        return Done(answer, packed(folder))


def _worker() -> Worker:
    if not hasattr(_own, "worker"):
        _own.worker = Worker()
    worker: Worker = _own.worker
    return worker


def packed(folder: Path) -> dict[str, bytes]:
    """The files of a run's folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def unpack(files: dict[str, bytes], folder: Path) -> None:
    """Put a run's files into its folder, its row last: where that stands, all is there."""
    inside = folder.resolve()
    for name, octets in files.items():
        path = (inside / name).resolve()
        if name != ROW_FILE and path.is_relative_to(inside):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(octets)
    if ROW_FILE in files:
        write_atomic(inside / ROW_FILE, files[ROW_FILE].decode("utf-8"))
