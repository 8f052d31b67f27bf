"""The emulated world's processes: forked from the worker, each with a control channel to it.

A fork starts in a millisecond with everything imported; fifty gateways would otherwise spend half a
minute on importing. The channel is a pair of Unix sockets that keep message boundaries; a message
is one pickled value, since both ends are this program; None asks a process to end. Also here:
waiting for descriptors with a time-out finer than the millisecond of poll(2) and epoll(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import platform
import select
import signal
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from ipseclab.emu import mnexec
from ipseclab.errors import IpsecLabError

ANSWER_SECONDS = 10.0
STOP_SECONDS = 5.0
LARGEST_MESSAGE = 128 * 1024
TIMER_SLACK_NANOSECONDS = 1_000
WAKINGS = 7
WAKING_WAITS = (0.0005, 0.015)
LONG_SLEEP = 0.005
WAKING_WEIGHT = 1 / 8
LATEST_WAKING = 0.0005
"""A machine so busy that it wakes later than this is not to be reckoned with as if it were so."""
SLICE_NANOSECONDS = 100_000
_PR_SET_TIMERSLACK = 29
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
"""The number of sched_setattr(2): not every C library has a function for it."""

_libc = ctypes.CDLL(None, use_errno=True)


class ProcessFailed(IpsecLabError):
    """A process of the lab ended, or did not answer, when it should have."""


class Control:
    """One end of a control channel."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._channel.fileno()

    def send(self, message: object) -> None:
        """Hand over one value."""
        self._channel.send(pickle.dumps(message))

    def receive(self) -> Any:
        """The next value; waits for it. Raises EOFError when the other end is gone."""
        octets = self._channel.recv(LARGEST_MESSAGE)
        if not octets:
            raise EOFError
        return pickle.loads(octets)

    def receive_within(self, seconds: float) -> Any:
        """As `receive`, but raises TimeoutError when nothing comes in time."""
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        if not poller.poll(max(0.0, seconds) * 1000.0):
            raise TimeoutError
        return self.receive()

    def close(self) -> None:
        """Close this end; the other one sees the end of the stream."""
        self._channel.close()


@dataclass(frozen=True, slots=True)
class Child:
    """A process of the lab, as the worker sees it."""

    name: str
    pid: int
    control: Control
    log: Path

    def ask(self, message: object, seconds: float = ANSWER_SECONDS) -> Any:
        """Send `message` and return the answer. Raises ProcessFailed."""
        try:
            self.control.send(message)
            return self.control.receive_within(seconds)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise ProcessFailed(f"{self.name} has ended: {self.last_words()}") from None
        except TimeoutError:
            raise ProcessFailed(f"{self.name} gave no answer within {seconds:.0f} s") from None

    def await_ready(self, seconds: float = ANSWER_SECONDS) -> Any:
        """The first thing that the process says of itself. Raises ProcessFailed."""
        try:
            return self.control.receive_within(seconds)
        except (EOFError, ConnectionResetError):
            raise ProcessFailed(f"{self.name} did not start: {self.last_words()}") from None
        except TimeoutError:
            raise ProcessFailed(f"{self.name} was not ready within {seconds:.0f} s") from None

    def has_ended(self) -> bool:
        """True when the process is no more."""
        descriptor = os.pidfd_open(self.pid)
        try:
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            return bool(poller.poll(0))
        finally:
            os.close(descriptor)

    def last_words(self) -> str:
        """The last line that it logged."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no reason logged"

    def finish(self, seconds: float = STOP_SECONDS) -> int:
        """Tell the process to end and wait for it, with force after `seconds`; its exit code."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.control.send(None)
        until = time.monotonic() + seconds
        descriptor = os.pidfd_open(self.pid)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(max(0.0, until - time.monotonic()) * 1000.0):
            os.kill(self.pid, signal.SIGKILL)
        os.close(descriptor)
        self.control.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def start(
    name: str, body: Callable[[Control], None], *, log: Path, network: int | None = None
) -> Child:
    """Fork a process that runs `body` and ends; in the network namespace of process `network`.

    Its standard output and error go to the file `log`.
    """
    log.touch()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    # What is there now is no garbage: a collection in the child would copy all of it.
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        _live(body, Control(theirs), log, network)
    theirs.close()
    return Child(name, pid, Control(ours), log)


def _live(
    body: Callable[[Control], None], control: Control, log: Path, network: int | None
) -> None:
    """The whole life of a child process; never returns."""
    code = 1
    try:
        os.setsid()  # the terminal's Ctrl-C is for the worker
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        if network is not None:
            mnexec.join_network(network)
        body(control)
        code = 0
    finally:
        kind, error, traceback = sys.exc_info()
        if kind is not None and error is not None:
            sys.__excepthook__(kind, error, traceback)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def be_quick() -> None:
    """For a process that moves packets: timers to the microsecond, and the processor soon after.

    A short slice makes the scheduler run it ahead of what computes at length (Linux 6.12 and later;
    earlier ones take no notice). No privilege is needed, and no share is taken from anyone.
    """
    _libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(TIMER_SLACK_NANOSECONDS), 0, 0, 0)
    number = _SCHED_SETATTR.get(platform.machine())
    if number is not None:
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, 0, 0, nice, 0, SLICE_NANOSECONDS, 0, 0)
        _libc.syscall(number, 0, attributes, 0)


def be_punctual() -> None:
    """For a link or a NAT: as `be_quick`, and ahead of all that computes where we may (as root).

    A busy machine would otherwise add milliseconds to each packet's delay.
    """
    be_quick()
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def cpu_seconds(pid: int) -> float:
    """CPU that a process has used, all its threads together: utime and stime of proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class _TimeSpec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class PrecisePoll:
    """ppoll(2): which descriptors can be read, waiting to the nanosecond; any descriptor number."""

    def __init__(self, *descriptors: int) -> None:
        self._count = len(descriptors)
        self._entries = (_PollFd * self._count)(
            *[_PollFd(descriptor, select.POLLIN, 0) for descriptor in descriptors]
        )
        self._time = _TimeSpec()
        self._time_address = ctypes.byref(self._time)
        self._ppoll = _libc.ppoll

    def wait(self, seconds: float | None) -> list[int]:
        """The descriptors that are readable (or closed), within `seconds`; None: for ever."""
        if seconds is None:
            found = self._ppoll(self._entries, self._count, None, None)
        else:
            whole, part = divmod(max(0.0, seconds), 1.0)
            self._time.tv_sec, self._time.tv_nsec = int(whole), int(part * 1e9)
            found = self._ppoll(self._entries, self._count, self._time_address, None)
        if found <= 0:
            return []
        return [entry.fd for entry in self._entries if entry.revents]


class EarlyRiser:
    """Waits for a moment, and rises as much earlier as it is late otherwise.

    How late that is, is measured before and learnt on the way: for short sleeps and for long ones,
    after which the processor, its caches and the host of a virtual machine are slower to wake.
    """

    def __init__(self, poll: PrecisePoll) -> None:
        self._poll = poll
        self._late = [waking_seconds(poll, seconds) for seconds in WAKING_WAITS]
        self._kind = 0
        self._until = 0.0

    def wait(self, at: float | None) -> list[int]:
        """The descriptors that are readable before it is time for what is to happen at the
        monotonic time `at`."""
        if at is None:
            self._until = inf
            return self._poll.wait(None)
        now = time.monotonic()
        self._kind = int(at - now >= LONG_SLEEP)
        self._until = at - self._late[self._kind]
        ready = self._poll.wait(self._until - now)
        if ready:
            self._until = inf
        return ready

    @property
    def now(self) -> float:
        """The time up to which things are to be done: they take effect as much later."""
        return time.monotonic() + self._late[0]

    def done(self) -> None:
        """What was to happen has happened: now is as late as it was after rising."""
        if self._until < inf:
            late = min(LATEST_WAKING, max(0.0, time.monotonic() - self._until))
            self._late[self._kind] += (late - self._late[self._kind]) * WAKING_WEIGHT
            self._until = inf


def waking_seconds(poll: PrecisePoll, seconds: float = WAKING_WAITS[0]) -> float:
    """How late this process wakes after so long a wait, on this machine: the median."""
    late = []
    for _ in range(WAKINGS):
        due = time.monotonic() + seconds
        if not poll.wait(seconds):
            late.append(time.monotonic() - due)
    return min(statistics.median(late), LATEST_WAKING) if late else 0.0
