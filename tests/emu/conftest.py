"""What the tests of the emulated world share: skips that say why, and code run in a sandbox."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cryptography
import pytest

import ipseclab
from ipseclab.emu.sandbox import capabilities, run_in_sandbox

NOBODY = 65534


@pytest.fixture(autouse=True)
def _namespaces(request: pytest.FixtureRequest) -> None:
    """Skip a test marked `netns` where the machine cannot, with the doctor's reason."""
    if request.node.get_closest_marker("netns") is None:
        return
    for check in capabilities():
        if not check.ok:
            pytest.skip(f"{check.name}: {check.detail}; {check.remedy}")


@dataclass(frozen=True)
class Done:
    """What came of code run in a sandbox."""

    code: int
    log: str


@pytest.fixture
def sandboxed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Done]:
    """Runs source text as a module in a sandbox whose results folder is `tmp_path` (OUT in it)."""

    def run(source: str) -> Done:
        before = "from pathlib import Path\nimport sys\nOUT = Path(sys.argv[1])\n"
        (tmp_path / "sandboxed_job.py").write_text(before + textwrap.dedent(source))
        here = os.environ.get("PYTHONPATH", "")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), here))))
        code = run_in_sandbox("sandboxed_job", str(tmp_path), out=tmp_path)
        log = tmp_path / "logs" / "worker.log"
        return Done(code, log.read_text() if log.exists() else "")

    return run


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that an unprivileged user may write, too."""
    folder = Path(tempfile.mkdtemp(prefix="ipseclab-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Python:
    """A way to start Python: as which user, with which environment."""

    command: tuple[str, ...]
    environment: dict[str, str]
    uid: int | None

    def start(
        self, arguments: Sequence[str], folder: Path, **options: object
    ) -> subprocess.Popen[str]:
        """Start it with these arguments in that folder."""
        user = {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}
        return subprocess.Popen(
            [*self.command, *arguments],
            cwd=folder,
            env={**self.environment, "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            text=True,
            **user,  # type: ignore[call-overload]
            **options,
        )


def _unprivileged() -> Python:
    """Python for uid 65534: this one where that user may run it, else the system's of the same
    version with our packages."""
    if os.geteuid() != 0:
        pytest.skip("not root, and so unprivileged already: the other half of this test says it")
    folders = {str(Path(str(module.__file__)).parents[1]) for module in (ipseclab, cryptography)}
    packages = os.pathsep.join(sorted(folders))
    for candidate in (sys.executable, "/usr/bin/python3"):
        python = Python((candidate,), {**os.environ, "PYTHONPATH": packages}, NOBODY)
        trial = "import sys, mininet, cryptography, ipseclab; print(sys.version_info[:2])"
        try:
            started = python.start(
                ["-c", trial], Path("/"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError:
            continue
        if started.communicate()[0].strip() == str(sys.version_info[:2]):
            return python
    pytest.skip("no Python that uid 65534 may run with our packages")


@pytest.fixture(params=["as we are", "unprivileged"])
def python(request: pytest.FixtureRequest) -> Python:
    """A way to start Python, as we are and as uid 65534."""
    if request.param == "unprivileged":
        return _unprivileged()
    return Python((sys.executable,), dict(os.environ), None)
