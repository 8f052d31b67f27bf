"""Where topologies and experiments are found by name.

In order: the folder in the working directory, the one beside the package (a checkout), the one that
an installed wheel put under the environment's `share/ipseclab`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ipseclab.errors import ConfigError, Place
from ipseclab.lab.yaml_source import one_of

TOPOLOGIES = "topologies"
EXPERIMENTS = "experiments"
SUFFIX = ".yaml"
OTHERS = {EXPERIMENTS: (TOPOLOGIES, "up"), TOPOLOGIES: (EXPERIMENTS, "run")}
"""Where a name belongs that is not in a folder, and the command that takes it."""

_SUFFIXES = (SUFFIX, ".yml")


def find_file(path_or_name: str | Path, folder: str) -> Path:
    """The file meant: a path that is there, or a name in one of the folders. Raises ConfigError."""
    path = Path(path_or_name)
    if path.suffix in _SUFFIXES or path.is_file():
        if path.is_file():
            return path
        raise ConfigError(f"no such file, expected a path or a name in {folder}/", Place(str(path)))
    for place in _folders(folder):
        candidate = place / f"{path_or_name}{SUFFIX}"
        if candidate.is_file():
            return candidate
    other, command = OTHERS[folder]
    if str(path_or_name) in names(other):
        raise ConfigError(f"this is one of {other}, use: ipseclab {command} {path_or_name}")
    expected = f"{one_of(names(folder), str(path_or_name))} (or a file, with its {SUFFIX})"
    raise ConfigError(f"unknown, {expected}", Place(str(path)))


def names(folder: str) -> list[str]:
    """The names that `find_file` knows in that folder, sorted."""
    found = {path.stem for place in _folders(folder) for path in place.glob(f"*{SUFFIX}")}
    return sorted(found)


def _folders(folder: str) -> Iterator[Path]:
    yield Path(folder)
    yield Path(__file__).resolve().parents[2] / folder
    yield Path(sys.prefix) / "share" / "ipseclab" / folder
