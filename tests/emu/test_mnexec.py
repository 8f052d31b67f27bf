from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipseclab.emu import mnexec

SCRIPT = Path(mnexec.__file__)


def own(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Our mnexec run as a script, without site packages, as the sandbox installs it."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_runs_the_command_with_its_own_options() -> None:
    done = own("sh", "-c", "echo hello; exit 4")
    assert (done.returncode, done.stdout) == (4, "hello\n")


def test_p_prints_the_marker_and_the_process_number() -> None:
    marker, pid = own("-p", "sh", "-c", "echo $$").stdout.split("\n")[:2]
    assert marker == f"\x01{pid}"


def test_d_leaves_the_session() -> None:
    reports = "import os; print(os.getsid(0) == os.getpid())"
    assert own("-d", sys.executable, "-c", reports).stdout == "True\n"


def test_c_closes_descriptors(tmp_path: Path) -> None:
    script = f"exec 7>{tmp_path}/open; exec {sys.executable} -I -S {SCRIPT} -c sh -c 'echo x >&7'"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert (tmp_path / "open").read_text() == ""


@pytest.mark.parametrize("arguments", [["-z"], ["-a"], ["-a", "one", "true"], ["-g", "x", "true"]])
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    done = own(*arguments)
    assert done.returncode == 1
    assert "usage: mnexec" in done.stderr


def test_without_a_command_nothing_is_done() -> None:
    assert own("-c").returncode == 0


@pytest.mark.netns
def test_new_namespaces_and_joining_them(sandboxed: Callable[[str], Any]) -> None:
    done = sandboxed(
        f"""
        import os, subprocess
        own = [sys.executable, "-I", "-S", {str(SCRIPT)!r}]
        held = subprocess.Popen([*own, "-cdn", "sh", "-c", "echo up; read line"],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        held.stdout.readline()
        pid = str(held.pid)
        def links(*prefix):
            done = subprocess.run([*prefix, "ip", "-o", "link"], capture_output=True, text=True)
            return [line.split(": ")[1].split("@")[0] for line in done.stdout.splitlines()]
        subprocess.run("ip link add x0 type veth peer name x1 netns " + pid, shell=True, check=True)
        print(links())
        print(links(*own, "-a", pid))
        seen = subprocess.run([*own, "-da" + pid, "ls", "/sys/class/net"],
                              capture_output=True, text=True)
        print(seen.stdout.split())
        """
    )
    assert done.log.splitlines() == ["['lo', 'x0']", "['lo', 'x1']", "['lo', 'x1']"]


@pytest.mark.netns
def test_a_lab_comes_up_with_it_and_without_net_tools(sandboxed: Callable[[str], Any]) -> None:
    done = sandboxed(
        """
        import os, shutil, subprocess
        from ipseclab.emu import mnexec, sandbox
        tools = Path("/run/tools")
        tools.mkdir()
        for name in ("bash", "sh", "env", "stty", "ip", "ping", "grep"):
            (tools / name).symlink_to(shutil.which(name))
        os.environ["PATH"] = str(tools)
        sandbox._bring_mnexec()
        assert shutil.which("mnexec") == f"{sandbox.TOOLS_FOLDER}/mnexec"
        from ipseclab.emu.lab import Lab
        from ipseclab.lab.topology import load_topology
        lab = Lab(load_topology("site-to-site"), seed=1, out=OUT)
        lab.build()
        command = ["mnexec", "-a", str(lab.pid("h1")), "ping", "-c1", "10.1.0.1"]
        print(subprocess.run(command, stdout=subprocess.DEVNULL).returncode)
        """
    )
    assert (done.code, done.log) == (0, "0\n")
