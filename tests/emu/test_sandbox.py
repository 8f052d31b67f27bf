from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ipseclab.emu import sandbox
from ipseclab.errors import EnvironmentLacks

SECONDS = 20.0

SLEEPERS = """
import subprocess, sys
from pathlib import Path
out = Path(sys.argv[1])
marker = (out / "marker").read_text()
sleep = [sys.executable, "-c", "import signal; signal.pause()", marker]
sleepers = [subprocess.Popen(sleep, start_new_session=True) for _ in range(4)]
(out / "ready").write_text("")
print("ready", flush=True)
sleepers[0].wait()
"""

OUTSIDE = """
import signal
import sys
from pathlib import Path
from ipseclab.emu.sandbox import run_in_sandbox
out = Path(sys.argv[1])
# What a background job starts, as these tests may be, inherits SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
run_in_sandbox("sleepers", str(out), out=out, interactive=True)
"""


def marked(marker: str) -> list[int]:
    """The processes that have `marker` on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if marker.encode() in words:
                found.append(int(entry.name))
    return found


def ended(pids: Sequence[int]) -> bool:
    """True when all of them end in time."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        over = bool(poller.poll(SECONDS * 1000.0))
        os.close(descriptor)
        if not over:
            return False
    return True


@pytest.mark.netns
def test_exit_code_and_output_come_out(sandboxed: Callable[[str], Any]) -> None:
    done = sandboxed("print('hello'); sys.stderr.write('there\\n'); sys.exit(7)")
    assert done.code == 7
    assert done.log.split() == ["hello", "there"]


@pytest.mark.netns
def test_signal_becomes_exit_code(sandboxed: Callable[[str], Any]) -> None:
    done = sandboxed("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert done.code == 128 + signal.SIGKILL


@pytest.mark.netns
def test_network_and_processes_are_its_own(sandboxed: Callable[[str], Any]) -> None:
    done = sandboxed(
        """
        import os, subprocess
        print(subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout)
        print(os.getpid(), len([name for name in os.listdir("/proc") if name.isdigit()]))
        """
    )
    links, processes = done.log.strip().rsplit("\n", 1)
    assert links.startswith("1: lo:")
    assert "UP" in links
    assert len(links.strip().splitlines()) == 1
    pid, count = map(int, processes.split())
    assert pid < 10
    assert count < 10


@pytest.mark.netns
def test_only_the_results_folder_is_written(
    sandboxed: Callable[[str], Any], tmp_path: Path
) -> None:
    stray = [f"{folder}/{tmp_path.name}-stray" for folder in sandbox.PRIVATE_FOLDERS]
    done = sandboxed(
        f"""
        for path in {stray!r}:
            Path(path).write_text("stray")
        (OUT / "kept").write_text("kept")
        """
    )
    assert done.code == 0, done.log
    assert (tmp_path / "kept").read_text() == "kept"
    assert not [path for path in stray if Path(path).exists()]


@pytest.mark.netns
def test_orphans_are_reaped_and_do_not_end_it(sandboxed: Callable[[str], Any]) -> None:
    done = sandboxed(
        """
        import os, subprocess, sys
        script = "import os; os.fork() and os._exit(0)"
        for _ in range(20):
            subprocess.run([sys.executable, "-c", script], check=True)
        reader, writer = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.write(writer, b"orphan lived")
            os._exit(0)
        os.wait()
        print(os.read(reader, 100).decode())
        """
    )
    assert (done.code, done.log.strip()) == (0, "orphan lived")


def awaited(marker: str, count: int) -> list[int]:
    """The marked processes, once there are so many: the last is started after "ready" is said."""
    until = time.monotonic() + SECONDS
    while len(found := marked(marker)) < count and time.monotonic() < until:
        select.select([], [], [], 0.02)
    return found


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_from_outside_nothing_lives_on(
    python: Any, open_folder: Path, number: signal.Signals
) -> None:
    marker = f"marker-{open_folder.name}-{number}"
    (open_folder / "marker").write_text(marker)
    (open_folder / "sleepers.py").write_text(SLEEPERS)
    (open_folder / "outside.py").write_text(OUTSIDE)
    python.environment["PYTHONPATH"] = os.pathsep.join(
        [str(open_folder), python.environment.get("PYTHONPATH", "")]
    )
    outer = python.start(["outside.py", str(open_folder)], open_folder, stdout=subprocess.PIPE)
    assert outer.stdout is not None
    assert outer.stdout.readline() == "ready\n"
    sleepers = awaited(marker, 4)
    assert len(sleepers) == 4
    outer.send_signal(number)
    outer.wait(SECONDS)
    outer.stdout.close()
    assert ended(sleepers)
    assert not marked(marker)


@pytest.mark.netns
def test_ctrl_c_ends_everything_and_is_passed_on(open_folder: Path) -> None:
    marker = f"marker-{open_folder.name}"
    (open_folder / "marker").write_text(marker)
    (open_folder / "sleepers.py").write_text(SLEEPERS)
    (open_folder / "outside.py").write_text(OUTSIDE.replace(", interactive=True", ""))
    os.mkfifo(open_folder / "ready")
    outer = subprocess.Popen(
        [sys.executable, "outside.py", str(open_folder)],
        cwd=open_folder,
        env={**os.environ, "PYTHONPATH": str(open_folder)},
        stderr=subprocess.PIPE,
        text=True,
    )
    (open_folder / "ready").read_text()
    sleepers = marked(marker)
    outer.send_signal(signal.SIGINT)
    _out, errors = outer.communicate(timeout=SECONDS)
    assert outer.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert sleepers
    assert not marked(marker)


def test_missing_program_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sandbox, "SYSTEM_PATH", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox._examined.cache_clear()
    try:
        lacking = {check.name: check for check in sandbox.capabilities() if not check.ok}
        assert lacking["unshare"].remedy == "apt-get install util-linux"
        assert lacking["ip"].remedy == "apt-get install iproute2"
        with pytest.raises(EnvironmentLacks, match="unshare: no program unshare"):
            sandbox.run_in_sandbox("unused", "", out=tmp_path)
        assert not (tmp_path / "logs").exists()
    finally:
        sandbox._examined.cache_clear()


def test_namespaces_refused_are_named_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    sandbox._examined.cache_clear()
    try:
        with pytest.raises(EnvironmentLacks, match="Operation not permitted") as caught:
            sandbox.sandbox_kind()
        assert "unprivileged_userns_clone" in caught.value.remedy
    finally:
        sandbox._examined.cache_clear()


def test_capabilities_taken_away_are_named_with_the_sysctl(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setting = tmp_path / "apparmor_restrict_unprivileged_userns"
    setting.write_text("1\n")
    monkeypatch.setattr(sandbox, "APPARMOR_SETTING", str(setting))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "apparmor_restrict_unprivileged_userns=0" in sandbox._namespace_remedy()
    setting.write_text("0\n")
    assert "apparmor" not in sandbox._namespace_remedy()
    monkeypatch.setattr(sandbox, "APPARMOR_SETTING", str(tmp_path / "none"))
    assert "unprivileged_userns_clone" in sandbox._namespace_remedy()


# As root there is no lack to be seen.
@pytest.mark.netns
@pytest.mark.parametrize("python", ["unprivileged"], indirect=True)
def test_inside_without_capabilities_it_says_so(python: Any, open_folder: Path) -> None:
    order = {"module": "unused", "arguments": [], "alive": 0, "bind": []}
    arguments = ["-m", "ipseclab.emu.sandbox", json.dumps(order)]
    inner = python.start(arguments, open_folder, stderr=subprocess.PIPE)
    _out, errors = inner.communicate(timeout=SECONDS)
    assert inner.returncode == sandbox.EXIT_LACKS
    assert errors.startswith("the namespaces have no capabilities: ")


def test_bound_back_are_paths_in_private_folders_once() -> None:
    inner = Path("/tmp")
    assert sandbox._without_nested([Path("/usr"), inner, inner / "..", inner]) == [inner]
