"""The prompt of `ipseclab up`: a lab in namespaces, with the habits of Mininet's command line.

`run_shell` is called outside and enters the sandbox; `python -m ipseclab.emu.shell FILE` is the
part inside. Without a terminal the commands come from standard input, and the exit code is 1 when
one of them failed.
"""

from __future__ import annotations

import cmd
import fcntl
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from pydantic import ValidationError

from ipseclab.emu.lab import Lab
from ipseclab.emu.process import ProcessFailed
from ipseclab.emu.sandbox import run_in_sandbox
from ipseclab.errors import ConfigError, EnvironmentLacks, IpsecLabError
from ipseclab.gateway import GatewayStatus
from ipseclab.lab.gateways import starting_connections
from ipseclab.lab.impairment import Bernoulli, ImpairmentConfig
from ipseclab.lab.model import DIRECTIONS, NodeKind
from ipseclab.lab.plan import ArgumentValue
from ipseclab.lab.schema_network import ImpairmentFile
from ipseclab.lab.topology import Topology, resolve
from ipseclab.lab.trace import Trace
from ipseclab.lab.yaml_source import YamlSource, one_of

LAB_FILE = "lab.json"
TRACE_FILE = "trace.jsonl"
PROMPT = "ipseclab> "
TERMINAL_OCTETS = 4096
DONE, FAILED, BAD_INPUT, LACKS = 0, 1, 2, 3


def run_shell(topology: Topology, *, seed: int, out: Path) -> int:
    """Bring `topology` up in a sandbox, serve the prompt, take it down; the exit code.

    `out` gets the trace, captures, keys and logs. Raises EnvironmentLacks.
    """
    folder = out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    source = topology.source
    document = {"seed": seed, "topology_file": source.file, "topology": source.data}
    path = folder / LAB_FILE
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return run_in_sandbox("ipseclab.emu.shell", str(path), out=folder, interactive=True)


def inside(path: Path) -> int:
    """The part inside the sandbox; the exit code."""
    document = json.loads(path.read_text(encoding="utf-8"))
    topology = resolve(YamlSource(document["topology_file"], document["topology"], {}))
    try:
        lab = Lab(topology, seed=document["seed"], out=path.parent, relayed=lambda _link: True)
        for stage, step in (
            (f"{len(topology.nodes)} nodes, {len(topology.links)} links", lab.build),
            ("measuring the links", lab.measure_links),
            ("starting NATs and gateways", lab.start_nodes),
            ("", lab.restart_links),
        ):
            if stage and sys.stdin.isatty():
                sys.stdout.write(f"{stage} ...\n")
                sys.stdout.flush()
            step()
        lab.begin(time.monotonic())
        lab.initiate({name: starting_connections(topology, name) for name in lab.gateways})
        shell = Shell(lab)
        shell.serve()
        with (path.parent / TRACE_FILE).open("w", encoding="utf-8") as sink:
            lab.finish(Trace(sink, keep=False))
        return shell.code
    except EnvironmentLacks as lacks:
        sys.stderr.write(f"{lacks}\n")
        return LACKS
    except IpsecLabError as problem:
        sys.stderr.write(f"{problem}\n")
        return BAD_INPUT if isinstance(problem, ConfigError) else FAILED


class Shell(cmd.Cmd):
    """Reads commands and carries them out; `code` is 1 once one of a script's has failed."""

    doc_leader = "NODE COMMAND runs a command at a node, as in: h1 ping h2"
    doc_header = "Other commands (help COMMAND says more):"

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self.code = DONE
        self._lab = lab
        self._topology = lab.topology
        self._interactive = sys.stdin.isatty()
        self.use_rawinput = self._interactive
        self.prompt = PROMPT if self._interactive else ""

    def serve(self) -> None:
        """Take commands until `exit` or the end of the input."""
        if self._interactive:
            _take_signals()
            names = " ".join(self._topology.nodes)
            self.stdout.write(f"{self._topology.name} is up: {names}. Try help.\n")
        while True:
            try:
                self.cmdloop()
                return
            except KeyboardInterrupt:
                self.stdout.write("\n")

    def onecmd(self, line: str) -> bool:
        """Carry out a line; what goes wrong is said and remembered."""
        try:
            stop = bool(super().onecmd(line))
            self._lab.take_keys()
            self._lab.check_children()
        except (ConfigError, ProcessFailed, ValueError) as problem:
            self._fail(str(problem))
            return False
        return stop

    def emptyline(self) -> bool:
        """Nothing; cmd.Cmd would repeat the last command."""
        return False

    def default(self, line: str) -> None:
        """NODE COMMAND ...: run a command at a node."""
        words = shlex.split(line, comments=True)
        if not words:
            return
        node, *command = words
        if node not in self._topology.nodes:
            raise ConfigError(f"unknown: {node}; a node is one of {' '.join(self._topology.nodes)}")
        if not command:
            raise ConfigError(f"{node}: no command, try: {node} bash")
        code = self._run_at(node, [self._address_of(word) for word in command])
        if code != DONE:
            self._remember_failure()

    def completenames(self, text: str, *_ignored: object) -> list[str]:
        """Commands and nodes that begin so."""
        names = [name for name in self._topology.nodes if name.startswith(text)]
        return [*super().completenames(text), *names]

    def do_nodes(self, _line: str) -> None:
        """nodes: every node with its kind, stack and addresses."""
        for node in self._topology.nodes.values():
            addresses = " ".join(f"{i.name}={i.address}" for i in node.interfaces)
            self._say(f"{node.name:10} {node.kind.value:8} {node.stack.value:11} {addresses}")

    def do_status(self, line: str) -> None:
        """status [NODE]: the SAs of every gateway, or of one."""
        for name in shlex.split(line) or self._lab.gateways:
            if name not in self._lab.gateways:
                raise ConfigError(f"{name} is no gateway of the lab's")
            self._say(name)
            for text in _status_lines(self._lab.report(name).status):
                self._say(f"  {text}")

    def do_initiate(self, line: str) -> None:
        """initiate [CONNECTION] [NODE]: set a connection up."""
        self._command("initiate", shlex.split(line))

    def do_rekey(self, line: str) -> None:
        """rekey [child|ike] [CONNECTION] [NODE]: new keys; by default the CHILD_SA's."""
        self._command_of_kind("rekey", line)

    def do_delete(self, line: str) -> None:
        """delete [child|ike] [CONNECTION] [NODE]: close; by default the CHILD_SA."""
        self._command_of_kind("delete", line)

    def do_liveness(self, line: str) -> None:
        """liveness [CONNECTION] [NODE]: ask the peer for a sign of life."""
        self._command("liveness", shlex.split(line))

    def do_nat(self, line: str) -> None:
        """nat rebind [NAT] [ADDRESS]: forget all mappings, as a NAT does that restarts."""
        words = shlex.split(line)
        nats = [node.name for node in self._topology.of_kind(NodeKind.NAT)]
        if not words or words[0] != "rebind" or len(words) > 3:
            raise ConfigError("expected: nat rebind [NAT] [ADDRESS]")
        named = [word for word in words[1:] if word in nats]
        addresses = [word for word in words[1:] if word not in nats]
        if not named and len(nats) != 1:
            raise ConfigError(f"which NAT? one of {' '.join(nats) or 'none'}")
        self._lab.rebind((named or nats)[0], addresses[0] if addresses else None)

    def do_address(self, line: str) -> None:
        """address change GATEWAY LINK [ADDRESS]: another address there; without one: none"""
        words = shlex.split(line)
        if len(words) not in (3, 4) or words[0] != "change":
            raise ConfigError("expected: address change GATEWAY LINK [ADDRESS]")
        self._lab.change_address(words[1], words[2], words[3] if len(words) == 4 else None)

    def do_link(self, line: str) -> None:
        """link show | link set NAME KEY=VALUE ...

        as in: link set wan delay=50ms loss=1% rate=10Mbit/s
        also jitter, reorder, duplicate, corrupt; both ways, or
        one with direction=forward or direction=backward
        """
        words = shlex.split(line)
        if words == ["show"]:
            for link in self._topology.links:
                for direction, config in zip(
                    DIRECTIONS, self._lab.impairments(link.name), strict=True
                ):
                    self._say(f"{link.name:10} {direction:8} {_settings(config)}")
        elif len(words) >= 3 and words[0] == "set":
            self._lab.set_link(words[1], dict(map(_setting, words[2:])))
        else:
            raise ConfigError("expected: link show, or link set NAME KEY=VALUE ...")

    def do_capture(self, line: str) -> None:
        """capture start|stop: record at the gateways' unprotected interfaces, to capture.pcapng"""
        match line.strip():
            case "start":
                self._lab.start_captures()
            case "stop":
                self._lab.stop_captures()
                self._say(str(self._lab.folders.out / "capture.pcapng"))
            case _:
                raise ConfigError("expected: capture start, or capture stop")

    def do_exit(self, _line: str) -> bool:
        """exit: take the lab down."""
        return True

    do_quit = do_exit

    def do_EOF(self, _line: str) -> bool:
        """The end of the input: take the lab down."""
        if self._interactive:
            self.stdout.write("\n")
        return True

    def get_names(self) -> list[str]:
        """For help: without the end of the input."""
        return [name for name in super().get_names() if name != "do_EOF"]

    # Own

    def _say(self, text: str) -> None:
        self.stdout.write(f"{text}\n")
        self.stdout.flush()

    def _fail(self, text: str) -> None:
        self.stdout.flush()
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
        self._remember_failure()

    def _remember_failure(self) -> None:
        """A script is told at its end; a person has seen it."""
        if not self._interactive:
            self.code = FAILED

    def _address_of(self, word: str) -> str:
        """A node's address for its name; any other word as it is."""
        node = self._topology.nodes.get(word)
        return word if node is None else str(node.address)

    def _command_of_kind(self, verb: str, line: str) -> None:
        words = shlex.split(line)
        kind = words.pop(0) if words and words[0] in ("child", "ike") else "child"
        self._command(f"{verb}_{kind}", words)

    def _command(self, action: str, words: list[str]) -> None:
        """Do it to a connection at one of its ends; by default the only one, its initiator."""
        protected = {c.name: c for c in self._topology.connections if c.mode is not None}
        node = next((word for word in words if word in self._lab.gateways), None)
        name = next((word for word in words if word in protected), None)
        unknown = [word for word in words if word not in (node, name)]
        if unknown:
            raise ConfigError(f"{unknown[0]} is no connection and no gateway of the lab's")
        found = [
            item
            for item in protected.values()
            if name in (None, item.name) and (node is None or node in item.ends)
        ]
        if len(found) != 1:
            raise ConfigError(f"which connection? one of {' '.join(protected) or 'none'}")
        self._lab.command(node if node is not None else found[0].initiator, action, found[0].name)

    def _run_at(self, node: str, command: list[str]) -> int:
        """Run a program in a node's namespaces, with the terminal if there is one; its code."""
        entering = ["mnexec", "-a", str(self._lab.pid(node)), *command]
        self.stdout.flush()
        if self._interactive:
            # On a pseudo-terminal of its own: a shell there has job control, Ctrl-C is its own.
            return os.waitstatus_to_exitcode(pty.spawn(entering, _read_terminal))
        return subprocess.run(entering, stdin=subprocess.DEVNULL, check=False).returncode


def _take_signals() -> None:
    """Ctrl-C drops the line that is typed. A program inherits what is ignored, not what is handled:
    so it has both signals as a shell would give them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, lambda _number, _frame: None)


def _read_terminal(terminal: int) -> bytes:
    """What the program wrote; its terminal is kept as large as ours."""
    size = fcntl.ioctl(sys.stdin.fileno(), termios.TIOCGWINSZ, bytes(8))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    return os.read(terminal, TERMINAL_OCTETS)


def _setting(text: str) -> tuple[str, ArgumentValue]:
    """KEY=VALUE of a `link set`, in plain numbers. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text}: expected KEY=VALUE")
    if key == "direction":
        return key, value
    known = list(ImpairmentFile.model_fields)
    if key not in known:
        raise ConfigError(f"{key}: unknown key, {one_of(known, key)}")
    try:
        checked = ImpairmentFile.model_validate({key: _number_or_text(value)})
    except ValidationError as problem:
        said = str(problem.errors()[0]["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{key}: {said}") from None
    if key == "loss":
        model = checked.loss.model() if checked.loss is not None else None
        if not isinstance(model, Bernoulli):
            raise ConfigError(f"loss: {value}, expected a probability")
        return key, model.probability
    setting: ArgumentValue = getattr(checked, key)
    return key, setting


def _number_or_text(value: str) -> float | int | str:
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return value


def _settings(config: ImpairmentConfig) -> str:
    """The settings of a direction that differ from a plain link's."""
    plain = ImpairmentConfig()
    changed = [
        f"{field.name}={getattr(config, field.name)}"
        for field in fields(config)
        if getattr(config, field.name) != getattr(plain, field.name)
    ]
    return " ".join(changed) or "plain"


def _status_lines(status: object) -> Iterator[str]:
    """A gateway's SAs for people to read."""
    if not isinstance(status, GatewayStatus):
        yield from json.dumps(status, indent=1).splitlines()
        return
    if not status.ike_sas:
        yield "no IKE_SA"
    for sa in status.ike_sas:
        encapsulated = ", ESP in UDP" if sa.encapsulated else ""
        yield f"{sa.connection}: IKE_SA {sa.spi_i} {sa.spi_r} {sa.role} {sa.state}"
        yield f"  peer {sa.peer}{encapsulated}"
        for child in sa.children:
            yield f"  CHILD_SA {child.spi_in} in, {child.spi_out} out, {child.mode} {child.state}"
            yield f"    {child.own_ts} === {child.peer_ts}"
    counted = [f"{name}={count}" for name, count in status.counters.items() if count]
    if counted:
        yield " ".join(counted)


if __name__ == "__main__":
    sys.exit(inside(Path(sys.argv[1])))
