"""Pieces of the emulated world that need no namespaces."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest

from ipseclab.emu import routing, traffic
from ipseclab.emu.capture import merge_captures
from ipseclab.emu.driver import read_keys
from ipseclab.emu.folders import Folders
from ipseclab.emu.probe import _burst_size
from ipseclab.emu.warmup import warm_up
from ipseclab.errors import EnvironmentLacks
from ipseclab.lab.credentials import EMPTY
from ipseclab.lab.impairment import ImpairmentConfig
from ipseclab.lab.keys import Capture
from ipseclab.lab.pcapng import PcapngWriter, read_pcapng
from ipseclab.lab.plan import Transfer
from ipseclab.lab.sides import unprotected_interfaces
from ipseclab.lab.topology import load_topology
from ipseclab.outputs import EspKeyLog


def test_policy_routing_of_a_gateway() -> None:
    topology = load_topology("site-to-site")
    node = topology.nodes["gw1"]
    outside = unprotected_interfaces(topology, "gw1")
    lines = list(routing.ipsec_lines(node, outside, topology.routes("gw1")))
    wan, lan = outside[0], next(i for i in node.interfaces if i not in outside)
    assert lines == [
        f"rule add pref 1 iif {wan.name} ipproto esp lookup local",
        f"rule add pref 4 iif {wan.name} ipproto ah lookup local",
        f"rule add pref 2 iif {wan.name} ipproto udp dport 500 lookup local",
        f"rule add pref 3 iif {wan.name} ipproto udp dport 4500 lookup local",
        f"rule add pref 5 iif {wan.name} lookup 101",
        "rule add pref 10 lookup local",
        "rule delete pref 0",
        "rule add pref 20 fwmark 0x1b5 lookup main",
        f"rule add pref 30 to {lan.network} lookup main",
        "rule add pref 40 lookup 100",
        f"route replace 0.0.0.0/0 dev tun-in src {node.address} table 100",
        "route add 0.0.0.0/0 dev tun-out table 101",
    ]


def test_neighbours_are_static_and_a_nats_pool_is_at_the_nat() -> None:
    topology = load_topology("site-to-site-nat")
    nat = topology.nodes["nat1"]
    towards = next(i for i in topology.nodes["r1"].interfaces if i.peer == "nat1")
    assert list(routing.address_lines([towards], [1400])) == [
        f"link set {towards.name} mtu 1400 up",
        f"address add {towards.address}/24 dev {towards.name}",
        f"neighbour replace {towards.peer_address} lladdr {towards.peer_mac} "
        f"dev {towards.name} nud permanent",
    ]
    lines = list(routing.pool_lines(towards, nat))
    assert [line.split()[2] for line in lines] == [str(address) for address in nat.pool]
    inside = next(i for i in topology.nodes["gw1"].interfaces if i.peer == "nat1")
    assert list(routing.pool_lines(inside, nat)) == []


def test_key_logs_are_read_as_they_come_and_never_by_half() -> None:
    logs = [EspKeyLog(bytes([n] * 4), "a", "b", "ENCR", "NONE", bytes(16), b"") for n in range(3)]
    octets = b"".join(map(pickle.dumps, logs))
    stream = io.BytesIO()
    found = []
    for octet in octets:
        at = stream.tell()
        stream.seek(0, io.SEEK_END)
        stream.write(bytes([octet]))
        stream.seek(at)
        found += read_keys(stream)
    assert found == logs


def test_recordings_are_joined_by_time_between_start_and_end(tmp_path: Path) -> None:
    packets = {"a": [1.0, 2.0, 3.5], "b": [1.5, 3.0, 9.0]}
    files = []
    for name, times in packets.items():
        files.append(tmp_path / f"{name}.pcapng")
        with files[-1].open("wb") as stream:
            writer = PcapngWriter(stream, (f"gw-{name}",))
            for at in times:
                writer.write(0, at, f"{name}{at}".encode())
    with Capture(tmp_path / "joined") as capture:
        assert merge_captures(files, capture, 1.5, 4.0) == 4
    with (tmp_path / "joined" / "capture.pcapng").open("rb") as stream:
        seen = [(p.interface, round(p.time, 6), p.packet) for p in read_pcapng(stream)]
    assert seen == [
        ("gw-b", 0.0, b"b1.5"),
        ("gw-a", 0.5, b"a2.0"),
        ("gw-b", 1.5, b"b3.0"),
        ("gw-a", 2.0, b"a3.5"),
    ]


def test_what_a_killed_run_left_is_not_taken_over(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.make_fresh()
    folders.part("gateway-gw1").write_text("old\n")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "esp_sa").write_text("old\n")
    folders.make_fresh()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "parts"]
    assert not list(folders.parts.iterdir())
    folders.log("said").write_text("something\n")
    folders.log("silent").touch()
    folders.remove_parts()
    assert [path.name for path in folders.logs.iterdir()] == ["said.log"]
    assert not folders.parts.exists()


@pytest.mark.parametrize("rate", [10e3, 100e3, 1e6, 10e6, 100e6, 1e9])
def test_a_burst_takes_little_time_and_fits_the_queue(rate: float) -> None:
    for queue in (2, 20, 1000):
        count, octets = _burst_size(ImpairmentConfig(rate=rate, queue_packets=queue))
        assert 2 <= count <= queue + 1
        assert 64 <= octets <= 1500
        assert count * octets * 8 / rate <= 0.2


def test_a_missing_congestion_control_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic.devices, "congestion_controls", lambda: ("cubic",))
    traffic.require_congestion_controls((Transfer("t", "h1", "h2", duration=1.0),))
    flow = Transfer("t", "h1", "h2", duration=1.0, congestion="newreno")
    with pytest.raises(EnvironmentLacks, match="newreno of transfer t: this kernel has cubic") as e:
        traffic.require_congestion_controls((flow,))
    assert "modprobe tcp_reno" in e.value.remedy


@pytest.mark.parametrize("name", ["site-to-site", "site-to-site-nat", "host-to-host", "double-nat"])
def test_every_topology_can_be_rehearsed(name: str) -> None:
    topology = load_topology(name)
    warm_up(topology, EMPTY, *topology.nodes)
