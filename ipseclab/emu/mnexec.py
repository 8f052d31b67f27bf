"""The lab's own `mnexec`, and the namespace system calls that the rest of `emu` shares with it.

Mininet starts every node through a small C program, `mnexec`, that Debian's package has and PyPI's
lacks. This file implements the options that Mininet's Python API uses, and runs as a script by
itself: it imports nothing but the standard library. See unshare(2), setns(2), mount(2).
"""

from __future__ import annotations

import ctypes
import getopt
import os
import sys

CLONE_NEWNS = 0x0002_0000
CLONE_NEWNET = 0x4000_0000
MS_REC = 0x4000
MS_BIND = 0x1000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
PR_SET_PDEATHSIG = 1

USAGE = """usage: mnexec [-cdnp] [-a PID] [-g GROUP] [-r PRIORITY] COMMAND [ARGUMENT ...]
  -c            close all descriptors but stdin, stdout and stderr
  -d            leave the terminal: a session of its own
  -a PID        join the network and mount namespaces of PID
  -n            new network and mount namespaces
  -p            print \\001 and the process number first
  -g GROUP      not possible in the lab's sandbox: refused
  -r PRIORITY   SCHED_RR priority
  -v            print the version
"""
VERSION = "ipseclab-mnexec 1"

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Put this process into new namespaces (unshare(2))."""
    _checked(_libc.unshare(flags), "unshare")


def set_namespace(descriptor: int, kind: int) -> None:
    """Join the namespace that `descriptor` refers to (setns(2); Python has it from 3.12 on)."""
    _checked(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    arguments = [os.fsencode(text) for text in (source, target, kind)]
    _checked(
        _libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(options)), f"mount {target}"
    )


def die_with_parent(signal_number: int) -> None:
    """Have `signal_number` sent to this process when its parent thread ends (prctl(2))."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0), "prctl")


def join_network(pid: int) -> None:
    """Move this process into the network namespace of `pid`."""
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        set_namespace(descriptor, CLONE_NEWNET)
    finally:
        os.close(descriptor)


def join_mounts(pid: int) -> None:
    """Move this process into the mount namespace of `pid`, and stay in the same folder."""
    folder = os.getcwd()
    descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        set_namespace(descriptor, CLONE_NEWNS)
    finally:
        os.close(descriptor)
    os.chdir(folder)


def new_node_namespaces() -> None:
    """A network of its own, and a /sys that shows it."""
    unshare(CLONE_NEWNET | CLONE_NEWNS)
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    mount("sysfs", "/sys", "sysfs", 0)


def leave_terminal() -> None:
    """Become the leader of a new session; a group leader must fork first (setsid(2))."""
    if os.getpgrp() == os.getpid() and os.fork() != 0:
        os._exit(0)
    os.setsid()


def main(arguments: list[str]) -> int:
    """Carry the options out in the order given, then become the command; 1 for a wrong option."""
    try:
        # A leading +: the first word that is no option is the command, its options are its own.
        options, command = getopt.gnu_getopt(arguments, "+cdnpva:g:r:")
    except getopt.GetoptError as error:
        sys.stderr.write(f"mnexec: {error}\n{USAGE}")
        return 1
    for option, value in options:
        if not _apply(option[1], value):
            sys.stderr.write(USAGE)
            return 1
    if command:
        os.execvp(command[0], command)
    return 0


def _apply(letter: str, value: str) -> bool:
    """Carry out one option; False when it is unknown or its value is no good."""
    if letter == "c":
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    elif letter == "d":
        leave_terminal()
    elif letter == "n":
        new_node_namespaces()
    elif letter == "p":
        os.write(1, f"\x01{os.getpid()}\n".encode())
    elif letter == "a" and value.isdigit():
        join_network(int(value))
        join_mounts(int(value))
    elif letter == "r" and value.isdigit():
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(int(value)))
    elif letter == "v":
        print(VERSION)
    else:
        return False
    return True


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except OSError as error:
        sys.exit(f"mnexec: {error}")
