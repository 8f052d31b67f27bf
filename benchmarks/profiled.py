"""Where the CPU time of running processes goes, by library: samples of perf(1)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ipseclab.errors import EnvironmentLacks

HERTZ = 1999
FINISH_SECONDS = 30.0
OTHER = "other"
LEAST = 0.005
"""A share below that is not worth a row."""
LIBRARIES: Mapping[str, str] = {
    "[kernel.kallsyms]": "kernel",
    "[kernel]": "kernel",
    "libpython": "interpreter",
    "python": "interpreter",
    "_rust.abi3": "cryptography",
    "libcrypto": "cryptography",
    "_multiarray_umath": "numpy",
    "libc.so": "libc",
    "ld-linux": "libc",
}
"""How the file of some code begins, and what it is called here; any other by its file's name."""


def missing() -> EnvironmentLacks | None:
    """What keeps processes from being looked at here."""
    if shutil.which("perf") is None:
        return EnvironmentLacks("profile: no program perf", "apt-get install linux-perf")
    return None


def profile(processes: Sequence[int], seconds: float, folder: Path) -> list[dict[str, float]]:
    """The share of each library in the CPU time of each of these processes, while so many seconds
    go by; nothing where the machine does not let perf see."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{pid}.data" for pid in processes]
    recorders = [
        subprocess.Popen(
            [
                *("perf", "record", "--quiet", "--event", "cpu-clock", "--freq", str(HERTZ)),
                *("--pid", str(pid), "--output", str(file), "sleep", str(seconds)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for pid, file in zip(processes, files, strict=True)
    ]
    for recorder in recorders:
        recorder.wait(seconds + FINISH_SECONDS)
    return [_shares(file) for file in files]


def _shares(file: Path) -> dict[str, float]:
    command = ["perf", "report", "--stdio", "--sort", "dso", "--field-separator", "|"]
    done = subprocess.run(
        [*command, "--input", str(file)], capture_output=True, text=True, check=False
    )
    return shares_in(done.stdout)


def shares_in(report: str) -> dict[str, float]:
    """The shares in what `perf report` prints, largest first; small ones together."""
    found: dict[str, float] = {}
    for line in report.splitlines():
        percent, _, file = (part.strip() for part in line.partition("|"))
        if not file or percent.startswith("#"):
            continue
        share = float(percent.rstrip("%")) / 100.0
        name = library_of(file) if share >= LEAST else OTHER
        found[name] = found.get(name, 0.0) + share
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def library_of(file: str) -> str:
    """What the code in that file is called here."""
    for start, name in LIBRARIES.items():
        if file.startswith(start):
            return name
    return file.strip("[]").partition(".")[0]


def children_of(pid: int) -> list[int]:
    """The processes that this one has started and that are still there (proc(5))."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
