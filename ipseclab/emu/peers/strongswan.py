"""strongSwan as a node of the lab: its own daemon, its own ESP in user space, driven through vici.

The daemon (charon with the plugin kernel-libipsec) runs in the node's network namespace and in a
mount namespace where /run is its own. The process around it speaks the same control messages as
our gateway's (`emu.driver`), and writes what vici reports as the same trace events, so that nothing
else in the lab needs to know which stack a node has. Its log, which holds every key, stays in the
results.

What kernel-libipsec cannot do is refused before anything starts: transport mode, ESP without UDP,
ESN. See strongSwan's documentation of swanctl.conf and of the vici protocol.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import vici

from ipseclab.emu.driver import AskStatus, Command, Report
from ipseclab.emu.peers.strongswan_auth import (
    auth_sections,
    eap_plugins,
    load_credentials,
    refuse_unsupported_auth,
    signs,
)
from ipseclab.emu.peers.strongswan_log import Beginning, Begun, LogReader
from ipseclab.emu.process import Child, Control, cpu_seconds, start
from ipseclab.errors import EnvironmentLacks
from ipseclab.gateway import ChildStatus, GatewayConfig, GatewayStatus, IkeStatus
from ipseclab.ike.config import Childless, ConnectionConfig, Lifetime, Mode
from ipseclab.ike.configuration import AddressRequest, Provision
from ipseclab.ike.lifecycle import half_open_seconds
from ipseclab.ike.proposals import proposal_text
from ipseclab.lab.trace import Trace
from ipseclab.registry import CfgAttributeType
from ipseclab.wire.selector import TrafficSelector

CHARON = "/usr/lib/ipsec/charon"
PLUGINS = (
    "random nonce openssl aes sha1 sha2 gcm ccm chapoly kdf hmac curve25519 gmp cmac xcbc x509 pem "
    "pkcs1 pkcs8 pubkey constraints revocation kernel-libipsec kernel-netlink socket-default vici "
    "updown"
)
NEEDED_PLUGINS = ("kernel-libipsec", "vici", "curve25519", "gcm", "openssl")
PLUGIN_FOLDER = Path("/usr/lib/ipsec/plugins")
REMEDY = (
    "apt-get install strongswan-swanctl strongswan-charon libcharon-extra-plugins "
    "libstrongswan-standard-plugins libstrongswan-extra-plugins"
)
EAP_REMEDY = "apt-get install libcharon-extra-plugins libcharon-extauth-plugins"
KEYS_DETAIL, QUIET_DETAIL = 4, 1
"""How much of IKE the daemon logs: every key and message, which costs it time; or that an SA is
established or gone."""
CHILDLESS = {Childless.NEVER: "never", Childless.ALLOW: "allow", Childless.PREFER: "force"}
"""5.9.8 does not know the word prefer."""
READY_SECONDS = 10.0
STOP_SECONDS = 3.0
_POLL_SECONDS = 0.02

_SETTINGS = """\
charon {{
  load = {plugins}
  install_virtual_ip = yes
  make_before_break = yes
  port = 500
  port_nat_t = 4500
  keep_alive = {keepalive}s
  retransmit_timeout = {timeout}
  retransmit_base = {base}
  retransmit_tries = {tries}
  retransmit_jitter = {jitter}
  retransmit_limit = {limit}
  delete_rekeyed_delay = {linger}
  half_open_timeout = {half_open}
  fragment_size = {fragment_size}
{further}  plugins {{
    vici {{ socket = unix://{socket} }}
    kernel-libipsec {{ allow_peer_ts = yes }}
  }}
  filelog {{
    {log} {{
      path = {log_path}
      time_format = %H:%M:%S
      time_add_ms = yes
      flush_line = yes
      default = 1
      ike = {detail}
      chd = {detail}
      cfg = 2
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class StrongswanSpec:
    """A node that runs strongSwan: its connections, a folder for its files, its trace."""

    config: GatewayConfig
    folder: Path
    """For logs; it stays in the results."""
    socket: Path
    """Where vici listens: inside the sandbox, not in the results."""
    trace: Path
    detail: int = KEYS_DETAIL
    settings: tuple[tuple[str, str], ...] = ()
    """Further settings of the section charon."""

    @property
    def name(self) -> str:
        """The node's name."""
        return self.config.ike.name


def version() -> str:
    """The installed version. Raises EnvironmentLacks when there is none that the lab can use."""
    if not os.access(CHARON, os.X_OK):
        raise EnvironmentLacks(f"strongSwan: no {CHARON}", REMEDY)
    for plugin in NEEDED_PLUGINS:
        if not (PLUGIN_FOLDER / f"libstrongswan-{plugin}.so").exists():
            raise EnvironmentLacks(f"strongSwan: no plugin {plugin}", REMEDY)
    done = subprocess.run([CHARON, "--version"], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return words[-1].removesuffix(",") if words else "unknown"


def refuse_unsupported(config: GatewayConfig) -> None:
    """Raise EnvironmentLacks for what kernel-libipsec cannot carry, or charon not prove."""
    for plugin in eap_plugins(config.ike.connections):
        if not (PLUGIN_FOLDER / f"libstrongswan-{plugin}.so").exists():
            raise EnvironmentLacks(f"strongSwan: no plugin {plugin}", EAP_REMEDY)
    for connection in config.ike.connections:
        refuse_unsupported_auth(connection)
        if connection.mode is not Mode.TUNNEL:
            raise EnvironmentLacks(
                f"connection {connection.name}: strongSwan's ESP in user space has no transport "
                "mode",
                "mode: tunnel",
            )


def start_strongswan(spec: StrongswanSpec, *, network: int, log: Path) -> Child:
    """Start the daemon and the process that drives it, in the network namespace of `network`.

    It says "ready" when the connections are loaded. Raises EnvironmentLacks.
    """
    version()
    refuse_unsupported(spec.config)

    def live(control: Control) -> None:
        StrongswanDriver(spec).run(control)

    return start(f"strongSwan {spec.name}", live, network=network, log=log)


class StrongswanDriver:
    """Runs one charon, loads the connections, obeys the lab, reports what happens."""

    def __init__(self, spec: StrongswanSpec) -> None:
        self._spec = spec
        self._connections = {c.name: c for c in spec.config.ike.connections}
        sink = spec.trace.open("a", buffering=1, encoding="utf-8")
        self._trace = Trace(sink, keep=False)
        self._ending = False

    def run(self, control: Control) -> None:
        """Be strongSwan until told to end."""
        process = self._start_daemon()
        try:
            session = self._session(process)
            self._load(session)
            threading.Thread(target=self._listen, args=(process,), daemon=True).start()
            control.send("ready")
            while self._obey(control, session, process):
                pass
        finally:
            self._ending = True  # what it closes now is not of the run
            _stop(process)

    def algorithms(self) -> dict[str, tuple[str, ...]]:
        """What a daemon with these plugins has, by kind: `swanctl --list-algs`."""
        process = self._start_daemon()
        try:
            found = _plain(self._session(process).get_algorithms())
        finally:
            self._ending = True
            _stop(process)
        return {kind: tuple(names) for kind, names in found.items()}

    # The daemon.

    def _start_daemon(self) -> subprocess.Popen[bytes]:
        spec = self._spec
        spec.folder.mkdir(parents=True, exist_ok=True)
        spec.socket.parent.mkdir(parents=True, exist_ok=True)
        settings = spec.folder / "strongswan.conf"
        settings.write_text(daemon_settings(spec), encoding="utf-8")
        # A daemon each: /run holds its process ID, and only one may have it.
        mount = shutil.which("mount", path="/usr/bin:/bin") or "mount"
        script = f'{mount} -t tmpfs tmpfs /run && exec "{CHARON}"'
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script],
            env={**os.environ, "STRONGSWAN_CONF": str(settings)},
            stdin=subprocess.DEVNULL,
        )

    def _session(self, process: subprocess.Popen[bytes]) -> Any:
        """A vici session, once the daemon listens. Raises EnvironmentLacks."""
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until:
            if process.poll() is not None:
                raise EnvironmentLacks(
                    f"charon ended with {process.returncode}",
                    f"see {self._spec.folder / 'charon.log'}",
                )
            opened = socket.socket(socket.AF_UNIX)
            try:
                opened.connect(str(self._spec.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                opened.close()
                select.select([], [], [], _POLL_SECONDS)
                continue
            return vici.Session(opened)
        raise EnvironmentLacks(
            f"charon did not open vici within {READY_SECONDS:.0f} s",
            f"see {self._spec.folder / 'charon.log'}",
        )

    def _load(self, session: Any) -> None:
        for connection in self._connections.values():
            load_credentials(session, connection)
            if connection.provision is not None:
                session.load_pool(vici_pools(connection.provision))
            session.load_conn({connection.name: vici_connection(connection)})

    # What the lab wants.

    def _obey(self, control: Control, session: Any, process: subprocess.Popen[bytes]) -> bool:
        """Carry out one control message; False when it is the last."""
        try:
            message = control.receive()
        except EOFError:
            return False
        match message:
            case Command(action, connection):
                control.send(self._command(session, action, connection))
            case AskStatus():
                control.send(self._report(session, process))
            case _:
                return False
        return True

    def _command(self, session: Any, action: str, connection: str) -> str:
        """Do it; "" or what is wrong with it."""
        if connection not in self._connections:
            return f"{self._spec.name} has no connection {connection!r}"
        at_once = {"timeout": "-1", "loglevel": "-1"}
        try:
            match action:
                case "initiate":
                    _drain(session.initiate({"child": connection, "ike": connection, **at_once}))
                case "rekey_child":
                    session.rekey({"child": connection})
                case "rekey_ike":
                    session.rekey({"ike": connection})
                case "reauthenticate":
                    session.rekey({"ike": connection, "reauth": "yes"})
                case "delete_child":
                    _drain(session.terminate({"child": connection, **at_once}))
                case "delete_ike":
                    _drain(session.terminate({"ike": connection, **at_once}))
                case _:
                    return f"strongSwan has no {action} on demand"
        except vici.exception.CommandException as error:
            return str(error)
        return ""

    def _report(self, session: Any, process: subprocess.Popen[bytes]) -> Report:
        found = [
            _status(name, _plain(sa)) for entry in session.list_sas() for name, sa in entry.items()
        ]
        status = GatewayStatus(self._spec.name, tuple(found), {})
        return Report(status, {}, cpu_seconds(process.pid))

    # What it tells.

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Write vici's events as trace records until the daemon ends."""
        session, asking = self._session(process), self._session(process)
        wanted = ["ike-updown", "ike-rekey", "child-updown", "child-rekey"]
        if self._spec.detail != QUIET_DETAIL:
            wanted.append("log")
        lines = LogReader()
        with contextlib.suppress(OSError, vici.exception.SessionException):
            for kind, event in session.listen(wanted):
                now = time.monotonic()
                if event is None or self._ending:
                    continue
                name = str(kind, "ascii") if isinstance(kind, bytes) else kind
                if name != "log":
                    self._note(name, event)
                elif (begun := lines.take(_plain(event))) is not None:
                    self._note_begun(asking, begun, now)

    def _note_begun(self, asking: Any, begun: Begun, now: float) -> None:
        """Trace what charon began at `now`, by itself or because it was told to."""
        record = partial(self._trace.record, now, self._spec.name)
        if begun.what is Beginning.HANDSHAKE:
            record("ike_started", connection=begun.connection)
            return
        for entry in asking.list_sas({"ike": begun.connection}):
            for sa in map(_plain, entry.values()):
                if sa["uniqueid"] != begun.unique_id:
                    continue
                children = sa["child-sas"].values()
                going = (c["spi-in"] for c in children if c["state"] in ("REKEYING", "REKEYED"))
                ike = begun.what is Beginning.IKE_REKEY
                old = sa["initiator-spi"] if ike else next(going, None)
                if old is not None:
                    record("rekey_started", kind=begun.what.value, old=old)

    def _note(self, kind: str, event: Mapping[str, Any]) -> None:
        up = event.get("up", b"no") == b"yes"
        for name, sa in event.items():
            if not isinstance(sa, Mapping):
                continue
            match kind:
                case "ike-updown":
                    event_name = "ike_established" if up else "ike_gone"
                    self._record(event_name, connection=name, **_ike_fields(sa))
                case "ike-rekey":
                    fields, old = _ike_fields(sa["new"]), _ike_fields(sa["old"])
                    self._record("ike_rekeyed", connection=name, old_spi_i=old["spi_i"], **fields)
                    self._record("ike_gone", connection=name, reason="rekeyed", **old)
                case "child-updown":
                    for child in sa.get("child-sas", {}).values():
                        self._child(name, child, up)
                case "child-rekey":
                    for child in sa.get("child-sas", {}).values():
                        old = _spis(child["old"])
                        self._child(name, child["new"], True, rekeys=old["spi_in"])
                        self._record("child_gone", connection=name, reason="rekeyed", **old)

    def _child(
        self, connection: str, child: Mapping[str, Any], up: bool, rekeys: str | None = None
    ) -> None:
        if not up:
            self._record("child_gone", connection=connection, reason="deleted", **_spis(child))
            return
        self._record(
            "child_ready",
            connection=connection,
            mode=child["mode"].decode().lower(),
            protocol="esp",
            encapsulated=child.get("encap", b"no") == b"yes",
            rekeys=rekeys,
            **_spis(child),
        )

    def _record(self, event: str, **fields: Any) -> None:
        self._trace.record(time.monotonic(), self._spec.name, event, **fields)


def daemon_settings(spec: StrongswanSpec) -> str:
    """strongswan.conf. Its timers are the daemon's, so the topology's checks (`lab.checks`) see to
    it that all connections of a node agree, and that charon can count them."""
    connections = spec.config.ike.connections
    first = connections[0]
    schedule = first.retransmission
    half_open = max(
        half_open_seconds(connection, spec.config.ike.limits) for connection in connections
    )
    return _SETTINGS.format(
        plugins=" ".join((PLUGINS, *eap_plugins(connections))),
        keepalive=round(first.keepalive) if first.keepalive is not None else 0,
        timeout=schedule.timeout,
        base=schedule.base,
        tries=schedule.tries,
        jitter=round(schedule.jitter * 100),
        limit=round(schedule.limit) if schedule.limit is not None else 0,
        half_open=ceil(half_open),
        fragment_size=first.fragment_size,
        further="".join(f"  {key} = {value}\n" for key, value in spec.settings),
        linger=round(first.rekey_linger),
        socket=spec.socket,
        log="lab",
        detail=spec.detail,
        log_path=spec.folder / "charon.log",
    )


def vici_connection(connection: ConnectionConfig) -> dict[str, Any]:
    """The connection as swanctl.conf's section `connections.<name>` wants it."""
    anyone = connection.peer_address is None
    child: dict[str, Any] = {
        "mode": connection.mode.value,
        "local_ts": _dynamic(connection.own_ts, connection.address_request),
        "remote_ts": _dynamic(connection.peer_ts, connection.provision),
        "esp_proposals": [proposal_text(proposal) for proposal in connection.esp_proposals],
        "dpd_action": "clear",
        **_lifetime(connection.child_lifetime, "life_time"),
    }
    lifetime = connection.child_lifetime
    if lifetime.octets is not None:
        child["life_bytes"] = str(lifetime.octets)
        child["rekey_bytes"] = str(int(lifetime.octets * (1.0 - lifetime.margin)))
    if lifetime.packets is not None:
        child["life_packets"] = str(lifetime.packets)
        child["rekey_packets"] = str(int(lifetime.packets * (1.0 - lifetime.margin)))
    liveness = connection.liveness
    return {
        "version": "2",
        "local_addrs": [connection.own_address],
        "remote_addrs": ["%any" if anyone else str(connection.peer_address)],
        "proposals": [proposal_text(proposal) for proposal in connection.ike_proposals],
        "encap": "yes",
        "mobike": "yes" if connection.mobike is not None else "no",
        "fragmentation": "yes" if connection.fragmentation else "no",
        "dpd_delay": f"{liveness:.0f}s" if liveness is not None else "0s",
        "send_cert": "always" if signs(connection) else "never",
        "send_certreq": "yes" if signs(connection) else "no",
        "reauth_time": f"{connection.reauthentication or 0.0:.0f}s",
        "childless": CHILDLESS[connection.childless],
        **_ppk(connection),
        **_lifetime(connection.ike_lifetime, "over_time"),
        **auth_sections(connection),
        "children": {connection.name: child},
        **_internal_addresses(connection),
    }


def _dynamic(
    selectors: tuple[TrafficSelector, ...], internal: AddressRequest | Provision | None
) -> list[str]:
    """charon's word for what is an address that the one end gives the other."""
    return [str(selector) for selector in selectors] if internal is None else ["dynamic"]


def _internal_addresses(connection: ConnectionConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    asked, given = connection.address_request, connection.provision
    if asked is not None:
        families = ((asked.ip4, "0.0.0.0"), (asked.ip6, "::"))
        settings["vips"] = [text for wanted, text in families if wanted]
    if given is not None:
        settings["pools"] = list(vici_pools(given))
    return settings


def vici_pools(provision: Provision) -> dict[str, dict[str, Any]]:
    """The pools as swanctl.conf's section `pools` wants them; name servers with the first.

    Named by their addresses: connections that share a pool share its leases."""
    kinds = CfgAttributeType
    pools: dict[str, dict[str, Any]] = {
        re.sub(r"[^0-9a-f]", "-", str(pool)): {"addrs": str(pool)} for pool in provision.pools
    }
    first = next(iter(pools.values()))
    if provision.dns:
        first["dns"] = list(provision.dns)
    if provision.domains:
        first[str(int(kinds.INTERNAL_DNS_DOMAIN))] = list(provision.domains)
    if provision.subnets:
        first["subnet"] = list(provision.subnets)
    return pools


def _ppk(connection: ConnectionConfig) -> dict[str, str]:
    """The post-quantum preshared key (RFC 8784): strongSwan has one a connection."""
    if not connection.ppks:
        return {}
    name = connection.ppks[0].identity.decode()
    return {"ppk_id": name, "ppk_required": "yes" if connection.ppk_required else "no"}


def _lifetime(lifetime: Lifetime, hard_key: str) -> dict[str, str]:
    """Soft and hard limits in whole seconds; an IKE_SA's hard limit counts from the soft one."""
    if lifetime.seconds is None:
        return {"rekey_time": "0s"}
    margin = max(1.0, lifetime.seconds * lifetime.margin)
    soft = max(1.0, lifetime.seconds - margin)
    hard = margin if hard_key == "over_time" else lifetime.seconds
    return {
        "rekey_time": f"{soft:.0f}s",
        "rand_time": f"{margin * lifetime.jitter:.0f}s",
        hard_key: f"{max(hard, 1.0):.0f}s",
    }


def _status(connection: str, sa: Mapping[str, Any]) -> IkeStatus:
    """An IKE_SA of vici's list-sas as our own gateways report theirs."""
    return IkeStatus(
        connection=connection,
        spi_i=sa["initiator-spi"],
        spi_r=sa["responder-spi"],
        role="initiator" if sa.get("initiator") == "yes" else "responder",
        state=sa["state"].lower(),
        peer=f"{sa['remote-host']}:{sa['remote-port']}",
        encapsulated="nat-any" in sa,
        children=tuple(
            ChildStatus(
                connection=child["name"],
                spi_in=child.get("spi-in", ""),
                spi_out=child.get("spi-out", ""),
                mode=child["mode"].lower(),
                state=child["state"].lower(),
                own_ts=" ".join(child.get("local-ts", ())),
                peer_ts=" ".join(child.get("remote-ts", ())),
            )
            for child in sa["child-sas"].values()
        ),
    )


def _ike_fields(sa: Mapping[str, Any]) -> dict[str, str]:
    return {
        "spi_i": sa["initiator-spi"].decode(),
        "spi_r": sa["responder-spi"].decode(),
        "role": "initiator" if sa.get("initiator") == b"yes" else "responder",
    }


def _spis(child: Mapping[str, Any]) -> dict[str, str]:
    return {"spi_in": child["spi-in"].decode(), "spi_out": child["spi-out"].decode()}


def _plain(value: Any) -> Any:
    """vici's octets as text, at any depth."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _drain(events: Iterable[Any]) -> None:
    """Take all log events of a command, so that its result is read."""
    for _event in events:
        pass


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End our charon, with force after a while."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
