"""Nothing is left behind, and nobody can make an endpoint fill its memory."""

import random
import sys
from dataclasses import replace

import pytest
from forge import path_to
from pair import CONNECTION, Pair, connection, gateway_config, make_pair
from transcript import ike_octets

from ipseclab.gateway import Gateway
from ipseclab.ike.config import Identity, IkeLimits
from ipseclab.outputs import SendDatagram, UdpEndpoint, UdpPath
from ipseclab.registry import IdType
from ipseclab.wire.message import Message, decode_message
from ipseclab.wire.payloads import NoncePayload

FLOOD = 5000
CONNECTIONS = 1000


def left(gateway):
    """What is in any table of a gateway but the counters, which are bounded by their names."""
    tables = {**gateway.ike.table_sizes, "sad": len(gateway.datapath.sad)}
    return {name: size for name, size in tables.items() if size and name != "counters"}


@pytest.mark.rfc("7296", "2.12", "MUST", "forget-keys")
def test_a_thousand_connections_made_and_closed_leave_nothing():
    pair = make_pair()
    for number in range(CONNECTIONS):
        pair.do(number % 2, "initiate", CONNECTION)
        pair.run(0.1)
        assert len(pair.ike_spis(0)) == 1
        pair.do(number // 2 % 2, "delete_ike", CONNECTION)
        pair.run(0.1)
        pair.sent.clear()
        pair.keys.clear()
        pair.notices.clear()
    for gateway in pair.gateways:
        assert gateway.ike.table_sizes["ike_sas"] <= CONNECTIONS  # some answer repeats for a while
    pair.run(200.0)
    assert [left(gateway) for gateway in pair.gateways] == [{}, {}]
    assert max(len(gateway.counters) for gateway in pair.gateways) < 64


def test_hundreds_of_rekeys_leave_one_ike_sa_and_one_child_sa():
    pair = make_pair()
    pair.connect()
    for number in range(200):
        pair.do(number % 2, ("rekey_child", "rekey_ike")[number // 2 % 2], CONNECTION)
        pair.run(0.5)
    pair.run(200.0)
    for gateway in pair.gateways:
        tables = left(gateway)
        timers = tables.pop("timers")
        assert tables == {"ike_sas": 1, "child_sas": 1, "index": 2, "sad": 1}
        assert timers == 2  # the soft and the hard lifetime of the IKE_SA
    pair.agreed()


def spoofed(template, rng):
    """A good IKE_SA_INIT request under an SPI and from an address that nobody has."""
    message = decode_message(template)
    payloads = tuple(
        NoncePayload(rng.randbytes(32)) if isinstance(p, NoncePayload) else p
        for p in message.payloads
    )
    forged = Message(
        rng.randbytes(8), bytes(8), message.exchange, True, False, 0, payloads
    ).encode()
    address = ".".join(str(rng.randrange(1, 255)) for _ in range(4))
    return forged, UdpEndpoint(address, rng.randrange(1024, 65536))


def flooded(limits):
    """b, open to any address, after thousands of requests from nowhere."""
    anyone = connection(1, peer_address=None)
    pair = Pair((gateway_config(connection(0)), gateway_config(anyone, limits=limits)))
    other = make_pair(seed=99)
    other.do(0, "initiate", CONNECTION)
    template, rng = ike_octets(other.sent[0]), random.Random(5)
    most = 0
    for number in range(FLOOD):
        octets, source = spoofed(template, rng)
        pair.now = number / FLOOD
        pair.b.receive_datagram(path_to(1, source=source), octets, pair.now)
        most = max(most, pair.b.ike.half_open)
    return pair, most


@pytest.mark.rfc("7296", "2.6", "SHOULD", "ask-cookie")
def test_flood_from_spoofed_addresses_stays_stateless_and_a_client_gets_in():
    limits = IkeLimits(cookie_threshold=32)
    pair, most = flooded(limits)
    assert most == 32
    assert pair.b.ike.table_sizes["ike_sas"] == 32
    assert pair.b.counters["ike.cookie_demanded"] == FLOOD - 32
    pair.connect()
    assert len(pair.ike_spis(0)) == 1
    packet = pair.send(0)
    pair.run(0.5)
    assert pair.delivered[1] == [packet]
    pair.run(340.0)
    assert pair.b.ike.half_open == 0
    pair.agreed()


def test_flood_without_cookies_stays_within_the_limit_and_a_client_gets_in_later():
    limits = IkeLimits(half_open=64, cookie_threshold=1_000_000)
    pair, most = flooded(limits)
    assert most == 64
    assert pair.b.counters["ike.too_many"] == FLOOD - 64
    pair.do(0, "initiate", CONNECTION)
    pair.run(80.0)  # the half-open ones give way after 30 s, the client has tried again
    pair.agreed()


def test_flood_does_not_keep_the_gateway_from_initiating():
    """A half-open IKE_SA of a stranger is no IKE_SA of any connection."""
    limits = IkeLimits(cookie_threshold=1_000_000)
    sides = [connection(i) for i in (0, 1)]
    pair = Pair((gateway_config(sides[0]), gateway_config(sides[1], limits=limits)))
    other = make_pair(seed=99)
    other.do(0, "initiate", CONNECTION)
    octets, _ = spoofed(ike_octets(other.sent[0]), random.Random(6))
    pair.b.receive_datagram(path_to(1), octets, 0.0)
    assert pair.b.ike.half_open == 1
    pair.connect(1)
    assert len(pair.ike_spis(1) & pair.ike_spis(0)) == 1


def hub_with(clients):
    """A gateway with a connection to each of so many clients, all of them established."""
    sides = [[client_connection(side, number) for number in range(clients)] for side in (0, 1)]
    configs = [gateway_config(own) for own in sides[1]]
    ike = replace(configs[0].ike, connections=tuple(sides[1]))
    policies = tuple(config.policies[0] for config in configs)
    hub = Gateway(replace(configs[0], ike=ike, policies=policies), rng=random.Random(1))
    for number, own in enumerate(sides[0]):
        client = Gateway(gateway_config(own), rng=random.Random(f"client {number}"))
        handshake(client, hub, own.name)
    return hub


def client_connection(side, number):
    address = f"10.99.{number // 250}.{number % 250 + 1}"
    changed = {("own_address", "peer_address")[side]: address}
    client_id = Identity(IdType.ID_FQDN, f"client{number}".encode())
    changed[("own_id", "peer_id")[side]] = client_id
    return connection(side, name=f"c{number}", **changed)


def handshake(client, hub, name):
    """Carry the four messages between the two, at once."""
    outputs, receiver = client.initiate(name, 0.0), hub
    while datagrams := [o for o in outputs if isinstance(o, SendDatagram)]:
        path, data = datagrams[0].path, datagrams[0].data
        outputs = receiver.receive_datagram(UdpPath(path.remote, path.local), data, 0.0)
        receiver = client if receiver is hub else hub


def opcodes(call, *arguments):
    """How many Python instructions a call takes: exact, whatever the machine does meanwhile."""
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call(*arguments)
    finally:
        sys.settrace(before)
    return count


def test_cost_of_an_operation_does_not_grow_with_the_number_of_ike_sas():
    few, many = hub_with(5), hub_with(150)
    assert (len(few.ike.ike_sas), len(many.ike.ike_sas)) == (5, 150)
    for method in ("initiate", "check_liveness", "rekey_child", "rekey_ike", "delete_ike"):
        costs = [opcodes(getattr(hub, method), "c3", 1.0) for hub in (few, many)]
        assert costs[1] <= 1.1 * costs[0], method
        assert costs[0] > 50
