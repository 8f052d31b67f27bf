"""Independent eyes: tshark, given the keys that a run wrote, opens every frame that it captured."""

from __future__ import annotations

import csv
import shutil
from io import StringIO
from itertools import cycle
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from rich.console import Console
from wireshark import Frame, count, dissected, kinds_of, unread
from worlds import NETNS, SIM, Run, at, run_in

from ipseclab.crypto.kex import WEAK_METHODS
from ipseclab.crypto.names import KEYWORDS
from ipseclab.lab.keys import CAPTURE_NAME, ESP_TABLE, IKE_TABLE, KEYS_FOLDER
from ipseclab.lab.pcapng import read_pcapng
from ipseclab.lab.plan import Ping, Probe, RunPlan, Transfer
from ipseclab.lab.topology import Topology, load_topology
from ipseclab.lab.traffic import PROBE_PORT
from ipseclab.present.decode import decode_capture
from ipseclab.present.ladder import ladder
from ipseclab.registry import ExchangeType, KeMethod, TransformType

PLAN = RunPlan(
    (
        Ping("ping", "h1", "h2", start=0.6, interval=0.1, count=5),
        Probe("out", "h1", "h2", start=0.5, duration=2.5, rate=60, size=200),
        Probe("back", "h2", "h1", start=0.5, duration=2.5, rate=60, size=1200),
        Transfer("bulk", "h1", "h2", start=0.7, octets=100_000),
    ),
    (
        at(1.0, "rekey_child", "gw1"),
        at(1.4, "rekey_ike", "gw2"),
        at(1.8, "rekey_child", "gw2"),
        at(2.2, "liveness", "gw1"),
        at(3.4, "delete_ike", "gw1"),
    ),
    duration=3.6,
)
CIPHERS = ["aes128", "aes192", "aes256", *(word for word in KEYWORDS if "gcm" in word)]
HASHES = ["sha256", "sha384", "sha512"]
# What Wireshark 4.0 reads beside; `tests/lab/test_key_tables.py` has every combination.
MORE = ["aes256ctr-sha1", "3des-sha256", "null-sha512"]
TOO_SLOW = (KeMethod.MODP_6144, KeMethod.MODP_8192)
METHODS = [
    word
    for word, named in KEYWORDS.items()
    if named.type is TransformType.KE and named.id not in (*TOO_SLOW, *WEAK_METHODS)
]
CHACHA = "chacha20poly1305"


def _suites() -> list[tuple[str, str]]:
    """Every cipher with every integrity algorithm it takes, as IKE's and as ESP's; the key exchange
    methods and PRFs take turns."""
    bare = [c for c in CIPHERS if "gcm" in c and "iiv" not in c] + [CHACHA]
    pairs = [*bare, *(f"{c}-{h}" for c in CIPHERS if "gcm" not in c for h in HASHES), *MORE]
    # MODP-4096 alone would take a second a key: two methods of each family have their turn.
    turns = cycle(zip(METHODS, cycle([h.replace("sha", "prfsha") for h in HASHES]), strict=False))
    named = [(pair, method, prf) for pair, (method, prf) in zip(pairs, turns, strict=False)]
    return [
        (f"{pair.replace('null', 'aes128')}-{prf}-{method}", f"{pair}-{method}")
        for pair, method, prf in named
    ]


SUITES = _suites()


def _check(run: Run, frames: list[Frame]) -> None:
    """All frames opened; as many IKE messages and probes as the trace says were sent."""
    assert unread(frames) == []
    kinds = count(frames)
    assert set(kinds) == {"ike", "esp"}
    sent, received = run.events("ike_sent"), run.events("ike_received")
    assert kinds["ike"] == len(sent) + len(received) == 2 * len(sent)
    exchanges = {record.fields["exchange"] for record in sent}
    assert exchanges == {e.name for e in ExchangeType if e.name in exchanges}
    assert {"IKE_SA_INIT", "IKE_AUTH", "CREATE_CHILD_SA", "INFORMATIONAL"} <= exchanges
    probes = [frame for frame in frames if str(PROBE_PORT) in frame.ports]
    # Once at each gateway.
    assert len(probes) == 2 * len(run.events("probe_sent")) == 2 * len(run.events("probe_received"))
    assert len(run.events("ping_received")) == 5
    assert len(run.events("transfer_done")) == 1


@pytest.mark.tshark
@pytest.mark.parametrize("name", ["site-to-site", "site-to-site-nat"])
@pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])
def test_every_frame_of_a_run_is_read(world: str, name: str, tmp_path: Path) -> None:
    run = run_in(world, load_topology(name), PLAN, tmp_path / "run")
    _check(run, dissected(run.folder, tmp_path / "config"))


@pytest.mark.tshark
@pytest.mark.parametrize(
    ("ike", "esp"), [suite for suite in SUITES if CHACHA not in suite[1]], ids=lambda text: text
)
def test_every_cipher_is_read(ike: str, esp: str, tmp_path: Path) -> None:
    run = run_in(SIM, _with_suite("site-to-site", ike, esp), PLAN, tmp_path / "run")
    _check(run, dissected(run.folder, tmp_path / "config"))


@pytest.mark.tshark
@pytest.mark.parametrize("mode", ["transport", "tunnel"])
def test_hosts_are_read_in_both_modes(mode: str, tmp_path: Path) -> None:
    topology = load_topology("host-to-host").with_overrides({"connections.hosts.mode": mode})
    plan = RunPlan(
        PLAN.flows,
        (
            at(1.0, "rekey_child", "h1", "hosts"),
            at(1.8, "rekey_child", "h2", "hosts"),
            at(3.4, "delete_ike", "h2", "hosts"),
        ),
        duration=PLAN.duration,
    )
    run = run_in(SIM, topology, plan, tmp_path / "run")
    _check(run, dissected(run.folder, tmp_path / "config"))


@pytest.mark.tshark
def test_fragments_are_read_and_put_together(tmp_path: Path) -> None:
    """RFC 7383: identities too long for one datagram; decode and ladder show what tshark sees."""
    names = ["a" * 1500, "b" * 2500]
    topology = load_topology("site-to-site").with_overrides({"connections.site.ids": names})
    run = run_in(SIM, topology, PLAN, tmp_path / "run")
    frames = dissected(run.folder, tmp_path / "config")
    _check(run, frames)
    cut = [record for record in run.events("ike_sent") if "fragment" in record.fields]
    assert len(cut) == run.metrics["ike_fragments"] == 7
    assert {record.fields["exchange"] for record in cut} == {"IKE_AUTH"}
    assert any("IKE_AUTH request 1 2/4" in line for line in ladder(run.records))


@pytest.mark.tshark
@pytest.mark.netns
@pytest.mark.strongswan
def test_every_frame_of_a_run_with_strongswan_is_read(tmp_path: Path) -> None:
    run = run_in(NETNS, load_topology("strongswan-peer-nat"), PLAN_WITH_PEER, tmp_path / "run")
    frames = dissected(run.folder, tmp_path / "config")
    assert unread(frames) == []
    # The peer traces no messages: what ours sent and received is there twice.
    ours = run.events("ike_sent", "ike_received", node="gw1")
    assert count(frames)["ike"] == 2 * len(ours) > 0
    probes = [frame for frame in frames if str(PROBE_PORT) in frame.ports]
    assert len(probes) == 2 * len(run.events("probe_sent")) == 2 * len(run.events("probe_received"))


# strongSwan has no liveness check on demand.
PLAN_WITH_PEER = RunPlan(
    PLAN.flows, tuple(a for a in PLAN.actions if a.action != "liveness"), PLAN.duration
)


@pytest.mark.tshark
def test_without_the_right_keys_nothing_is_read(tmp_path: Path) -> None:
    run = run_in(SIM, load_topology("site-to-site"), PLAN, tmp_path / "run")
    folder = tmp_path / "wrong"
    shutil.copytree(run.folder, folder)
    for name in (IKE_TABLE, ESP_TABLE):
        path = folder / KEYS_FOLDER / name
        keys = path.read_text(encoding="ascii")
        lines = [_spoilt(line, name) for line in keys.splitlines()]
        path.write_text("\n".join(lines) + "\n", encoding="ascii")
    frames = dissected(folder, tmp_path / "config")
    readable = {frame.exchange for frame in frames if frame not in unread(frames)}
    assert readable == {"34"}  # IKE_SA_INIT, in the clear


def _spoilt(line: str, table: str) -> str:
    """The row with other keys of the same size."""
    row = next(csv.reader([line]))
    for index in (2, 3) if table == IKE_TABLE else (5,):
        key = row[index]
        row[index] = key[:-2] + f"{int(key[-2:], 16) ^ 1:02x}"
        line = line.replace(key, row[index])
    return line


def test_chacha20_poly1305_is_read_by_hand(tmp_path: Path) -> None:
    """tshark 4.0 has no ChaCha20-Poly1305: RFC 7634's few lines on the library's cipher."""
    ike, esp = next(suite for suite in SUITES if CHACHA in suite[1])
    run = run_in(SIM, _with_suite("site-to-site-nat", ike, esp), PLAN, tmp_path / "run")
    keys = run.folder / KEYS_FOLDER
    ike_keys = {row[0] + row[1]: (row[2], row[3]) for row in _commented(keys / IKE_TABLE)}
    esp_keys = {row[3].removeprefix("0x"): row[5] for row in _commented(keys / ESP_TABLE)}
    opened = dict.fromkeys(("ike", "esp"), 0)
    with (run.folder / "capture.pcapng").open("rb") as stream:
        packets = [captured.packet[28:] for captured in read_pcapng(stream)]
    for kind, payload in zip(kinds_of(run.folder), packets, strict=True):
        if kind == "esp":
            key = bytes.fromhex(esp_keys[payload[:4].hex()].removeprefix("0x"))
            _open(key, payload[8:], payload[:8])
            opened["esp"] += 1
        elif payload[:4] == bytes(4):
            message = payload[4:]
            initiator, responder = ike_keys[message[:16].hex()]
            key = bytes.fromhex(initiator if message[19] & 0x08 else responder)
            _open(key, message[32:], message[:32])
            opened["ike"] += 1
    sent = len(run.events("ike_sent"))
    # All but the two messages of IKE_SA_INIT, each at both gateways.
    assert opened["ike"] == 2 * (sent - 2)
    assert opened["esp"] == sum(kind == "esp" for kind in kinds_of(run.folder))
    assert opened["esp"] > 2 * len(run.events("probe_sent"))


def _open(key: bytes, sealed: bytes, associated: bytes) -> None:
    """Raises InvalidTag unless it is authentic: key and salt, IV and ciphertext and ICV."""
    nonce = key[32:] + sealed[:8]
    assert ChaCha20Poly1305(key[:32]).decrypt(nonce, sealed[8:], associated)


def _commented(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="ascii").splitlines()
    return list(csv.reader(line.removeprefix("# ") for line in lines))


def _with_suite(name: str, ike: str, esp: str) -> Topology:
    # ML-KEM-1024 in IKE_SA_INIT, which is never fragmented, does not fit 1,500 octets.
    wide = {f"links.{link}.mtu": 2000 for link in ("wan", "wan2")}
    chosen = {"connections.site.ike": ike, "connections.site.esp": esp}
    return load_topology(name).with_overrides({**wide, **chosen})


HYBRID = "aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke2_mlkem512"


@pytest.mark.tshark
def test_a_hybrid_handshake_is_read_from_ike_auth_on(tmp_path: Path) -> None:
    """Each IKE_INTERMEDIATE leaves new keys of the same SPIs (RFC 9370). Wireshark keeps the last
    row of a pair of SPIs, so that it opens all that follows; `ipseclab decode` opens all."""
    esp = "aes128gcm16-x25519-ke1_x448"
    topology = _with_suite("site-to-site", HYBRID, esp)
    run = run_in(SIM, topology, PLAN, tmp_path / "run")
    frames = dissected(run.folder, tmp_path / "config")
    intermediate = [f for f in frames if f.exchange == str(int(ExchangeType.IKE_INTERMEDIATE))]
    assert len(intermediate) == 2 * 4
    assert all("Integrity Checksum Data is incorrect" in f.complaints[0] for f in intermediate)
    unread_exchanges = {frame.exchange for frame in unread(frames)}
    assert unread_exchanges == {str(int(ExchangeType.IKE_INTERMEDIATE))}
    followups = [f for f in frames if f.exchange == str(int(ExchangeType.IKE_FOLLOWUP_KE))]
    assert followups
    stream = StringIO()
    capture = run.folder / CAPTURE_NAME
    decode_capture(capture, run.folder / KEYS_FOLDER, Console(file=stream, width=100))
    assert "IKE_INTERMEDIATE" in stream.getvalue()
    assert "ciphertext" not in stream.getvalue()
