from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ipseclab.lab.trace import read_trace

pytestmark = pytest.mark.netns

START = """
import sys
from pathlib import Path
from ipseclab.emu.shell import run_shell
from ipseclab.lab.topology import load_topology
sys.exit(run_shell(load_topology(sys.argv[1]), seed=1, out=Path(sys.argv[2])))
"""
SECONDS = 60.0


def up(topology: str, folder: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """A lab brought up, given these commands, and taken down."""
    return subprocess.run(
        [sys.executable, "-c", START, topology, str(folder / "out")],
        input=commands,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_commands_from_standard_input(tmp_path: Path) -> None:
    done = up(
        "site-to-site-nat",
        tmp_path,
        "h1 ping -c 2 -i 0.2 h2  # names become addresses\n"
        "\n"
        "status\n"
        "capture start\n"
        "rekey ike\n"
        "h1 ping -c 3 -i 0.2 h2\n"
        "rekey gw2\n"
        "h1 ping -c 3 -i 0.2 h2\n"
        "nat rebind\n"
        "h1 ping -c 1 h2\n"
        "link set wan delay=1ms direction=forward\n"
        "link show\n"
        "capture stop\n"
        "status gw1\n",
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.count(" 0% packet loss") == 4
    assert "site: IKE_SA" in done.stdout
    assert "wan        forward  delay=0.001" in done.stdout
    assert "wan        backward delay=0.02" in done.stdout
    out = tmp_path / "out"
    events = {record.event for record in read_trace(out / "trace.jsonl")}
    assert {"ike_established", "ike_rekeyed", "rekey_done", "nat_rebound", "peer_moved"} <= events
    assert (out / "capture.pcapng").stat().st_size > 1000
    assert (out / "keys" / "esp_sa").read_text().count("\n") >= 4
    assert not (out / "parts").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("h9 ping h1", "unknown: h9; a node is one of h1 r1 h2"),
        ("h1", "h1: no command, try: h1 bash"),
        ("h1 false", ""),
        ("h1 no-such-program", "no-such-program"),
        ("rekey nobody", "nobody is no connection and no gateway"),
        ("nat rebind", "which NAT? one of none"),
        ("link set wan delay", "delay: expected KEY=VALUE"),
        ("link set wan delay=5parsec", "delay: '5parsec' is not a time"),
        ("link set moon delay=1ms", "no link 'moon'"),
        ("link set wan mtu=900", "mtu is fixed while the lab is up, expected in the topology file"),
        ("capture", "expected: capture start, or capture stop"),
        ("status r1", "r1 is no gateway of the lab's"),
        ('h1 echo "', "No closing quotation"),
    ],
)
def test_what_is_wrong_is_said(session: Any, command: str, said: str) -> None:
    output = session(command)
    assert said in output
    assert "Traceback" not in output


def test_exit_code_of_a_failed_command(tmp_path: Path) -> None:
    done = up("host-to-host", tmp_path, "h1 true\nbogus\nh1 true\n")
    assert done.returncode == 1
    assert done.stderr == "unknown: bogus; a node is one of h1 r1 h2\n"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One lab for many commands: what it says to each, its errors among it."""
    folder = tmp_path_factory.mktemp("shell")
    process = subprocess.Popen(
        [sys.executable, "-c", START, "host-to-host", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def say(command: str) -> str:
        stdin.write(f"{command}\nh1 echo that-was-it\n")
        stdin.flush()
        lines = iter(stdout.readline, "")
        return "".join(iter(lambda: next(lines), "that-was-it\n"))

    yield say
    stdin.close()
    assert process.wait(SECONDS) == 1
    stdout.close()


def test_a_lab_comes_up_for_an_unprivileged_user_too(python: Any, open_folder: Path) -> None:
    process = python.start(
        ["-c", START, "site-to-site", str(open_folder / "out")],
        open_folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _errors = process.communicate("h1 ping -c 1 h2\nstatus gw1\n", timeout=SECONDS)
    assert process.returncode == 0, output
    assert " 0% packet loss" in output
    assert "CHILD_SA" in output
