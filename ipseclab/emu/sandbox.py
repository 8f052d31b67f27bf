"""A sandbox of Linux namespaces that needs no root, in which one emulated run lives and dies.

Around a run: user, network, mount and PID namespaces. The PID namespace's first process (`main`
below) starts the worker and ends when the worker ends or when the outer process is gone, however
it went; the kernel then kills all that is left inside. So nothing survives a `kill -9`.
See namespaces(7), user_namespaces(7), pid_namespaces(7).
"""

from __future__ import annotations

import functools
import json
import os
import select
import shutil
import signal
import site
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ipseclab.emu import mnexec
from ipseclab.errors import EnvironmentLacks

PRIVATE_FOLDERS = ("/run", "/tmp", "/var/tmp", "/dev/shm")
"""Each gets an empty tmpfs of the sandbox's own; what the run needs of them is bound back in."""
APPARMOR_SETTING = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
TOOLS_FOLDER = "/run/ipseclab/bin"
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
LOGS_FOLDER = "logs"
WORKER_LOG = "worker.log"
PROBE_SECONDS = 20.0
END_SECONDS = 5.0
EXIT_LACKS = 3

_UNSHARE = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_USER = ("--user", "--map-root-user")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the emulated world needs: whether it is there, and the remedy if it is not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def run_in_sandbox(module: str, argument: str, *, out: Path, interactive: bool = False) -> int:
    """Run `python -m module argument` in a sandbox of its own; its exit code, 128 + n for signal n.

    `out` is the one folder that it may leave files in; its standard error goes to
    `out/logs/worker.log`. An interactive run has the terminal instead. Ctrl-C ends everything
    inside and is passed on. Raises EnvironmentLacks when the machine cannot do it.
    """
    user = sandbox_kind()
    logs = out / LOGS_FOLDER
    logs.mkdir(parents=True, exist_ok=True)
    if interactive:
        return _interactive(module, argument, out, user)
    with (logs / WORKER_LOG).open("ab") as log:
        process, alive = _start(module, (argument,), (out,), user, stderr=log, stdout=log)
        try:
            return _exit_code(process.wait())
        finally:
            _end(process, alive)


def _interactive(module: str, argument: str, out: Path, user: bool) -> int:
    """As `run_in_sandbox`, with the terminal: Ctrl-C is for what runs in there."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process, alive = _start(module, (argument,), (out,), user, terminal=True)
        try:
            return _exit_code(process.wait())
        finally:
            _end(process, alive)
    finally:
        signal.signal(signal.SIGINT, before)


def _end(process: subprocess.Popen[bytes], alive: int) -> None:
    """Have the sandbox end, if it has not, and wait until nothing of it is left."""
    os.close(alive)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def sandbox_kind() -> bool:
    """True when the sandbox takes a user namespace, False when root does without one.

    Raises EnvironmentLacks with the first thing missing.
    """
    kind, checks = _examined()
    for check in checks:
        if not check.ok:
            raise EnvironmentLacks(f"{check.name}: {check.detail}", check.remedy)
    return kind


def capabilities() -> list[Check]:
    """What this machine can do towards `--world netns`, for `ipseclab doctor`."""
    return list(_examined()[1])


# What the machine lacks --------------------------------------------------------------------------

_DEBIAN = "apt-get install {}"
_NO_NAMESPACES = (
    "as root: sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000; in a "
    "container: run it with --privileged; or run as root, or use --world sim"
)
_STRIPPED = (
    "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; or run as root, or use "
    "--world sim"
)


@functools.cache
def _examined() -> tuple[bool, tuple[Check, ...]]:
    """Whether a user namespace is wanted, and every check; probed once a process."""
    checks = list(_programs())
    if not all(check.ok for check in checks):
        return True, tuple(checks)
    # Real root reads files of any owner; mapped root only its own: prefer the real one.
    kinds = (False, True) if os.geteuid() == 0 else (True,)
    problem = ""
    for user in kinds:
        document, problem = _probe(user)
        if document is not None:
            entered = Check("namespaces", True, "user namespace" if user else "as root")
            return user, (*checks, entered, *(Check(**entry) for entry in document))
    checks.append(Check("namespaces", False, problem, _namespace_remedy()))
    return True, tuple(checks)


def _namespace_remedy() -> str:
    """Ubuntu 24.04 makes the user namespace and takes its capabilities away again."""
    try:
        restricted = Path(APPARMOR_SETTING).read_text().strip() != "0"
    except OSError:  # a kernel without that restriction
        restricted = False
    return _STRIPPED if restricted and os.geteuid() != 0 else _NO_NAMESPACES


def _programs() -> Iterator[Check]:
    yield Check("linux", sys.platform == "linux", sys.platform, "use --world sim")
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("bash", "bash")):
        found = shutil.which(program, path=_search_path())
        detail = found if found is not None else f"no program {program}"
        yield Check(program, found is not None, detail, _DEBIAN.format(package))
    there = find_spec("mininet") is not None
    detail = "importable" if there else "no Python package mininet"
    yield Check("mininet", there, detail, "pip install mininet")
    own = shutil.which("mnexec", path=_search_path())
    yield Check("mnexec", True, own if own is not None else "the lab's own")


def _probe(user: bool) -> tuple[list[dict[str, Any]] | None, str]:
    """Enter a sandbox and let it examine itself: its findings, or why it could not be entered."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as report:
        try:
            process, alive = _start(
                "ipseclab.emu.examine",
                (str(writer),),
                (),
                user,
                stderr=subprocess.PIPE,
                keep=(writer,),
            )
        finally:
            os.close(writer)
        try:
            _out, errors = process.communicate(timeout=PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            return None, f"no answer from the sandbox within {PROBE_SECONDS:.0f} s"
        finally:
            _end(process, alive)
        text = report.read()
    if process.returncode == 0 and text:
        return json.loads(text), ""
    lines = errors.decode(errors="replace").strip().splitlines()
    return None, lines[-1] if lines else f"unshare ended with {process.returncode}"


# Outside -----------------------------------------------------------------------------------------


def _start(
    module: str,
    arguments: Sequence[str],
    folders: Sequence[Path],
    user: bool,
    *,
    terminal: bool = False,
    stdout: Any = None,
    stderr: Any = None,
    keep: Sequence[int] = (),
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the sandbox; its process, and the descriptor whose closing ends it."""
    watched, alive = os.pipe()
    wanted = [*folders, *(Path(a) for a in arguments if os.path.isabs(a)), Path.cwd()]
    order = {
        "module": module,
        "arguments": list(arguments),
        "alive": watched,
        "bind": [str(path) for path in _without_nested([*wanted, *_python_folders()])],
    }
    command = ["unshare", *(_USER if user else ()), *_UNSHARE, sys.executable]
    command += ["-m", "ipseclab.emu.sandbox", json.dumps(order)]
    parent = os.getpid()

    def before_exec() -> None:
        mnexec.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)

    try:
        process = subprocess.Popen(
            command,
            stdin=None if terminal else subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=_environment(),
            pass_fds=(watched, *keep),
            start_new_session=not terminal,  # the terminal's Ctrl-C is not for what is inside
            preexec_fn=before_exec,
        )
    except OSError:
        os.close(alive)
        raise
    finally:
        os.close(watched)
    return process, alive


def _environment() -> Mapping[str, str]:
    """Ours, with system programs found, and temporary files inside the sandbox."""
    environment = {k: v for k, v in os.environ.items() if k not in ("TMPDIR", "XDG_RUNTIME_DIR")}
    environment["PATH"] = _search_path()
    return environment


def _search_path() -> str:
    """PATH as it is, and the system folders that an unprivileged user's often lacks."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*folders, *SYSTEM_PATH]))


def _python_folders() -> list[Path]:
    """Where the interpreter and its packages (ours among them) lie."""
    names = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, site.getusersitepackages()]
    names += [os.path.dirname(os.path.realpath(sys.executable)), str(Path(__file__).parents[2])]
    return [Path(name) for name in names if name]


def _without_nested(paths: Sequence[Path]) -> list[Path]:
    """The paths that exist under a private folder, each once, none inside another."""
    kept: list[Path] = []
    real = {path.resolve() for path in paths if os.path.exists(path)}
    for path in sorted(real):
        hidden = any(path.is_relative_to(folder) for folder in PRIVATE_FOLDERS)
        if hidden and not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


def _exit_code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


# Inside: the first process of the PID namespace --------------------------------------------------


def main(text: str) -> int:
    """Make the sandbox fit to live in, start the worker, and outlast everything but the outside."""
    order = json.loads(text)
    try:
        _hide_folders([Path(path) for path in order["bind"]])
        _bring_mnexec()
        _bring_loopback_up()
    except PermissionError as error:
        sys.stderr.write(f"the namespaces have no capabilities: {error}\n")
        return EXIT_LACKS
    wake_reader, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_writer)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = os.fork()
    if worker == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, before)
        os.close(order["alive"])
        command = [sys.executable, "-m", order["module"], *order["arguments"]]
        os.execv(sys.executable, command)
    return _outlast(worker, order["alive"], wake_reader)


def _outlast(worker: int, alive: int, wake: int) -> int:
    """Reap what ends, until the worker does (its exit code) or the outer process is gone."""
    poller = select.poll()
    poller.register(alive, select.POLLIN)
    poller.register(wake, select.POLLIN)
    while True:
        for descriptor, _event in poller.poll():
            if descriptor == alive:
                return 128 + signal.SIGKILL
            os.read(wake, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == worker:
                return _exit_code(os.waitstatus_to_exitcode(status))


def _hide_folders(bind: Sequence[Path]) -> None:
    """Cover the private folders with a tmpfs each, and bind `bind` back in at their places."""
    kept = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in bind]
    folder_now = os.getcwd()
    for folder in PRIVATE_FOLDERS:
        if os.path.isdir(folder) and not os.path.islink(folder) and Path(folder) not in bind:
            mnexec.mount("tmpfs", folder, "tmpfs", 0, "mode=1777")
    for path, descriptor in kept:
        if str(path) not in PRIVATE_FOLDERS:
            _bind(path, descriptor)
        os.close(descriptor)
    os.chdir(folder_now)


def _bind(path: Path, descriptor: int) -> None:
    """Make the file or folder behind `descriptor` appear at `path`."""
    source = f"/proc/self/fd/{descriptor}"
    if os.path.isdir(source):
        path.mkdir(parents=True, exist_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    # Mounts of the outer, more privileged namespace are locked together: only with MS_REC.
    mnexec.mount(source, str(path), "none", mnexec.MS_BIND | mnexec.MS_REC)


def _bring_mnexec() -> None:
    """Where the machine has no `mnexec` for Mininet, put the lab's own on the PATH."""
    if shutil.which("mnexec") is not None:
        return
    folder = Path(TOOLS_FOLDER)
    folder.mkdir(parents=True)
    script = folder / "mnexec"
    # -I -S: it needs no site packages, and starts in a third of the time without them.
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{mnexec.__file__}" "$@"\n')
    script.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def _bring_loopback_up() -> None:
    """Set `lo` up; the first thing that a namespace without capabilities refuses."""
    from ipseclab.emu.devices import set_up

    set_up("lo")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
