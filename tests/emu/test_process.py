from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipseclab.emu.process import (
    LATEST_WAKING,
    Control,
    EarlyRiser,
    PrecisePoll,
    ProcessFailed,
    start,
    waking_seconds,
)


def echo(control: Control) -> None:
    """Says it is ready, then answers everything with itself."""
    control.send("ready")
    while (message := control.receive()) is not None:
        control.send(message)


def fail(_control: Control) -> None:
    raise ValueError("cannot go on")


def keep_silent(control: Control) -> None:
    control.send("ready")
    while control.receive() is not None:
        pass


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "process.log"


def test_messages_there_and_back(log: Path) -> None:
    child = start("echo", echo, log=log)
    assert child.await_ready() == "ready"
    for message in ("text", b"octets" * 1000, {"a": [1, 2.5, None]}, ("x", 7)):
        assert child.ask(message) == message
    assert not child.has_ended()
    assert child.finish() == 0
    assert log.read_text() == ""


def test_a_process_that_fails_leaves_its_last_words(log: Path) -> None:
    child = start("failing", fail, log=log)
    with pytest.raises(ProcessFailed, match="failing did not start: ValueError: cannot go on"):
        child.await_ready()
    assert child.finish() == 1
    assert "Traceback" in log.read_text()


def test_a_process_that_gives_no_answer_is_named(log: Path) -> None:
    child = start("silent", keep_silent, log=log)
    child.await_ready()
    with pytest.raises(ProcessFailed, match="silent gave no answer within 0 s"):
        child.ask("hello", seconds=0.05)
    assert child.finish() == 0


def test_one_that_does_not_end_is_made_to(log: Path) -> None:
    def deaf(control: Control) -> None:
        control.send("ready")
        PrecisePoll().wait(None)

    child = start("deaf", deaf, log=log)
    child.await_ready()
    assert child.finish(seconds=0.05) == -9


def test_poll_says_what_is_readable_and_waits_to_the_microsecond() -> None:
    reader, writer = os.pipe()
    other, _unused = os.pipe()
    poll = PrecisePoll(reader, other)
    begun = time.monotonic()
    assert poll.wait(0.0005) == []
    assert time.monotonic() - begun >= 0.0005
    os.write(writer, b"x")
    assert poll.wait(None) == [reader]
    assert 0.0 <= waking_seconds(PrecisePoll(other)) <= LATEST_WAKING
    for descriptor in (reader, writer, other, _unused):
        os.close(descriptor)


def test_who_sleeps_late_rises_early() -> None:
    reader, writer = os.pipe()
    riser = EarlyRiser(PrecisePoll(reader))
    late = []
    for number in range(40):
        due = time.monotonic() + (0.001 if number % 2 else 0.006)
        assert riser.wait(due) == []
        late.append(time.monotonic() - due)
        assert riser.now >= time.monotonic()
        riser.done()
    # As often too early as too late, by microseconds; without it always late.
    assert -LATEST_WAKING < statistics.median(late) < LATEST_WAKING / 2
    assert min(late) < 0.0
    os.write(writer, b"x")
    assert riser.wait(time.monotonic() + 1.0) == [reader]
    riser.done()
    assert riser.wait(None) == [reader]
    for descriptor in (reader, writer):
        os.close(descriptor)


@pytest.mark.netns
def test_a_process_in_another_network(sandboxed: Callable[[str], Any]) -> None:
    done = sandboxed(
        """
        import os, subprocess
        from ipseclab.emu import devices, mnexec
        from ipseclab.emu.process import start
        holder = start("holder", lambda c: (mnexec.unshare(mnexec.CLONE_NEWNET), c.send("ready"),
                                            c.receive()), log=OUT / "holder.log")
        holder.await_ready()
        subprocess.run(f"ip link add x0 type veth peer name x1 netns {holder.pid}", shell=True)
        def names(control):
            control.send(sorted(os.listdir("/proc/sys/net/ipv4/conf")))
        print(start("there", names, log=OUT / "t.log", network=holder.pid).await_ready())
        with devices.in_network(holder.pid):
            devices.set_up("x1")
            devices.set_mtu("x1", 1400)
            print(devices.mtu_of("x1"), len(devices.mac_of("x1")))
        print(sorted(os.listdir("/proc/sys/net/ipv4/conf")))
        """
    )
    assert done.log.splitlines() == [
        "['all', 'default', 'lo', 'x1']",
        "1400 6",
        "['all', 'default', 'lo', 'x0']",
    ]
