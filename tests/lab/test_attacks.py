"""An attacker without I/O: what it sees of packets, what it makes of them, and when they go on."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.errors import WireError
from ipseclab.lab.attacks import Attack, Attacker, NothingAttacked, Tally, require_attacks
from ipseclab.lab.attacks.attacker import MOST_HELD
from ipseclab.lab.attacks.change import mended
from ipseclab.lab.attacks.sight import clear_octets, look
from ipseclab.lab.traffic import FORGED_FLOW, PROBE_PORT, decode_probe, probe_payload
from ipseclab.registry import ExchangeType, IpProtocol, NotifyType
from ipseclab.wire.ip import (
    build_icmp_echo,
    build_ipv4,
    build_udp,
    checksum,
    decode_ipv4_header,
    decode_udp,
    pseudo_header_checksum,
)
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NoncePayload, NotifyPayload

A, B = bytes((192, 0, 2, 1)), bytes((198, 51, 100, 2))
H1, H2 = bytes((10, 1, 0, 2)), bytes((10, 2, 0, 2))
SPI = bytes.fromhex("0a0b0c0d")


def esp(number, size=64, spi=SPI, in_udp=False):
    carried = spi + number.to_bytes(4, "big") + bytes(range(size))
    if in_udp:
        segment = build_udp(A, 4500, B, 4500, carried, zero_checksum=True)
        return build_ipv4(A, B, IpProtocol.UDP, segment)
    return build_ipv4(A, B, IpProtocol.ESP, carried)


def ah(number, payload):
    head = bytes((IpProtocol.UDP, 4)) + bytes(2) + SPI + number.to_bytes(4, "big") + bytes(12)
    return build_ipv4(A, B, IpProtocol.AH, head + payload)


def probe(number, size=100, source=H1, destination=H2):
    segment = build_udp(source, 4712, destination, PROBE_PORT, probe_payload(0, number, size))
    return build_ipv4(source, destination, IpProtocol.UDP, segment)


def attacker(*attacks, seed=1):
    made = Attacker("mal", attacks, seed=seed)
    made.begin(0.0)
    return made


def attack(do, **settings):
    return Attack(settings.pop("name", do), "mal", do, **settings)


def passed(machine, *packets, link="left"):
    """What comes out for each of these packets, sent one a second."""
    return [machine.receive(packet, link, float(at)).packets for at, packet in enumerate(packets)]


# --- what is seen --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "kind", "spi", "sequence"),
    [
        (esp(7), "esp", SPI, 7),
        (esp(7, in_udp=True), "esp", SPI, 7),
        (ah(9, b"x" * 24), "ah", SPI, 9),
        (probe(1), "plain", None, None),
        (build_ipv4(A, B, 1, build_icmp_echo(8, 1, 1, b"")), "plain", None, None),
        (build_ipv4(A, B, 17, build_udp(A, 4500, B, 4500, b"\xff")), "keepalive", None, None),
        (build_ipv4(A, B, 17, build_udp(A, 500, B, 500, bytes(28))), "ike", None, None),
        (build_ipv4(A, B, 17, build_udp(A, 4500, B, 4500, bytes(32))), "ike", None, None),
        (build_ipv4(A, B, 50, b"", flags_fragment=0x0003), "esp", None, None),
    ],
)
def test_packets_are_told_apart(packet, kind, spi, sequence):
    sight = look(packet)
    assert (sight.kind, sight.spi, sight.sequence) == (kind, spi, sequence)


def test_an_ike_header_is_read():
    header = bytes(16) + bytes((33, 0x20, 34, 0x28)) + bytes(8)
    sight = look(build_ipv4(A, B, 17, build_udp(A, 500, B, 500, header)))
    assert (sight.exchange, sight.message) == (34, "response")


def test_probes_in_clear_are_recognised_wherever_they_stand():
    assert clear_octets(probe(3, 100)) == 100
    assert clear_octets(ah(1, probe(3, 100))) == 100
    assert clear_octets(esp(1, 200)) == 0
    damaged = bytearray(probe(3, 100))
    damaged[-1] ^= 1
    assert clear_octets(bytes(damaged)) == 0


@given(st.binary(max_size=80), st.sampled_from([1, 6, 17, 50, 51, 89]), st.booleans())
def test_nothing_that_crosses_upsets_an_attacker(payload, protocol, as_packet):
    packet = build_ipv4(A, B, protocol, payload) if as_packet else payload
    machine = attacker(
        attack("read"),
        attack("alter", field="payload"),
        attack("alter", name="icv", field="icv"),
        attack("alter", name="last", octet=-1, mask=b"\xff\xff"),
        attack("downgrade", notifies=(1,)),
        attack("spoof", address=IPv4Address("10.9.9.9")),
        attack("forge"),
        attack("replay"),
    )
    result = machine.receive(packet, "left", 1.0)
    try:
        sight = look(packet)
    except WireError:
        assert result.packets == ()
        assert result.notices[0].details["reason"] == "malformed"
    else:
        assert len(result.packets) >= 3
        assert look(result.packets[0]).kind == sight.kind
        for made in result.packets:
            assert not checksum(made[: decode_ipv4_header(made).header_length])


@given(st.binary(min_size=1, max_size=60), st.integers(0, 59), st.sampled_from([1, 6, 17]))
def test_checksums_fit_again_whatever_was_altered(payload, at, protocol):
    if protocol == 17:
        payload = build_udp(H1, 1, H2, 2, payload)
    elif protocol == 1:
        payload = build_icmp_echo(8, 1, 2, payload)
    else:
        payload = bytes(12) + b"\x50" + bytes(7) + payload
    whole = build_ipv4(H1, H2, protocol, payload)
    packet = bytearray(whole)
    # Behind the header that says how long it is and where its checksum stands.
    packet[20 + min(20, len(payload) - 1) + at % max(1, len(payload) - 20)] ^= 0x55
    good = mended(bytes(packet), look(whole))
    segment = good[20:]
    total = (
        checksum(segment) if protocol == 1 else pseudo_header_checksum(H1, H2, protocol, segment)
    )
    assert (checksum(good[:20]), total) == (0, 0)


# --- what is done --------------------------------------------------------------------------------


def test_before_the_run_begins_everything_passes():
    machine = Attacker("mal", [attack("drop")], seed=1)
    assert machine.receive(esp(1), "left", 5.0).packets == (esp(1),)
    machine.begin(6.0)
    assert machine.receive(esp(1), "left", 6.0).packets == ()


def test_attacks_of_other_attackers_are_not_its_own():
    machine = attacker(Attack("theirs", "other", "drop"))
    assert passed(machine, esp(1)) == [(esp(1),)]
    assert machine.tallies() == ()


@pytest.mark.parametrize(
    ("settings", "struck"),
    [
        ({"traffic": "esp"}, [1, 2, 3]),
        ({"traffic": "data"}, [0, 1, 2, 3]),
        ({"traffic": "ah"}, []),
        ({"traffic": "esp", "nth": (2,)}, [2]),
        ({"every": 2}, [1, 3]),
        ({"link": "right"}, []),
        ({"spi": SPI}, [1, 2, 3]),
        ({"protocol": 17}, [0, 3]),
        ({"port": PROBE_PORT}, [0]),
        ({"source": IPv4Network("10.1.0.0/16")}, [0]),
        ({"destination": IPv4Network("198.51.100.2/32")}, [1, 2, 3]),
        ({"start": 1.0, "end": 2.0}, [1, 2]),
        ({"probability": 0.0}, []),
    ],
)
def test_which_packets_an_attack_is_about(settings, struck):
    out = passed(
        attacker(attack("drop", **settings)), probe(0), esp(1), esp(2), esp(3, in_udp=True)
    )
    assert [at for at, packets in enumerate(out) if not packets] == struck


def test_an_altered_probe_has_checksums_that_fit():
    ((packet,),) = passed(attacker(attack("alter", field="payload", mask=b"\xff")), probe(1))
    header = decode_ipv4_header(packet)
    segment = packet[20:]
    assert not checksum(packet[:20])
    assert not pseudo_header_checksum(header.source, header.destination, 17, segment)
    with pytest.raises(WireError, match="damaged"):
        decode_probe(decode_udp(segment)[2])


def test_without_repair_it_has_not():
    ((packet,),) = passed(attacker(attack("alter", octet=-1, repair=False)), probe(1))
    assert pseudo_header_checksum(H1, H2, 17, packet[20:])


@pytest.mark.parametrize(
    ("field", "at"),
    [("spi", 20), ("sequence", 24), ("icv", 91), ("ttl", 8), ("dscp", 1), ("payload", 60)],
)
def test_fields_of_esp(field, at):
    ((packet,),) = passed(attacker(attack("alter", field=field, repair=False)), esp(1))
    assert [place for place in range(92) if packet[place] != esp(1)[place]] == [at]


def test_an_attack_on_a_field_passes_by_packets_without_it():
    machine = attacker(attack("alter", field="spi"))
    assert passed(machine, probe(1)) == [(probe(1),)]
    assert machine.tallies()[0].met == 0


def test_replays_come_after_their_delays():
    machine = attacker(attack("replay", nth=(1,), times=2, delay=0.5))
    assert passed(machine, esp(1)) == [(esp(1),)]
    assert machine.next_deadline() == 0.5
    assert machine.release(0.4).packets == ()
    assert machine.release(0.5).packets == (esp(1),)
    assert machine.next_deadline() == 1.0
    assert machine.release(1.0).notices[0].details["do"] == "replay"
    assert machine.next_deadline() is None


def test_a_reordered_packet_lets_so_many_pass_first():
    machine = attacker(attack("reorder", traffic="esp", nth=(1,), after=2))
    out = passed(machine, esp(1), probe(9), esp(2), esp(3), esp(4))
    assert out == [(), (probe(9),), (esp(2),), (esp(3), esp(1)), (esp(4),)]


def test_two_held_ones_do_not_overtake_each_other():
    machine = attacker(attack("reorder", nth=(1, 2), after=1))
    assert passed(machine, esp(1), esp(2), esp(3)) == [(), (), (esp(3), esp(1), esp(2))]


def test_a_delayed_packet_comes_later():
    machine = attacker(attack("delay", delay=0.25))
    assert passed(machine, esp(1)) == [()]
    assert machine.release(0.25).packets == (esp(1),)


def test_a_spoofed_copy_claims_another_source():
    (out,) = passed(attacker(attack("spoof", address=IPv4Address("10.7.7.7"))), probe(1))
    assert out[0] == probe(1)
    assert out[1] == probe(1, source=bytes((10, 7, 7, 7)))


@pytest.mark.parametrize("in_udp", [False, True])
def test_forged_esp_has_the_spi_and_a_later_number(in_udp):
    machine = attacker(attack("forge", times=2, ahead=5, octets=40))
    (out,) = passed(machine, esp(10, in_udp=in_udp))
    seen = [look(packet) for packet in out]
    assert [sight.spi for sight in seen] == [SPI] * 3
    assert [sight.sequence for sight in seen] == [10, 15, 16]
    assert [sight.end - sight.content for sight in seen] == [64, 40, 40]
    assert out[1][-40:] != out[2][-40:]


def test_a_forged_datagram_in_clear_is_a_probe_that_nobody_sent():
    (out,) = passed(attacker(attack("forge", traffic="plain", times=2)), probe(1))
    marks = [decode_probe(decode_udp(packet[20:])[2]) for packet in out[1:]]
    assert marks == [(FORGED_FLOW, 0), (FORGED_FLOW, 1)]
    assert not pseudo_header_checksum(H1, H2, 17, out[1][20:])


def test_an_inserted_datagram_goes_where_it_is_told():
    ends = IPv4Address(H1), IPv4Address(H2)
    (out,) = passed(attacker(attack("insert", ends=ends, octets=80)), esp(1))
    header = decode_ipv4_header(out[1])
    assert (out[0], header.source, header.destination) == (esp(1), H1, H2)
    assert len(decode_udp(out[1][20:])[2]) == 80


def test_what_one_attack_stops_the_next_does_not_meet():
    machine = attacker(attack("drop", every=2), attack("read"))
    passed(machine, *(esp(number) for number in range(6)))
    assert [tally.struck for tally in machine.tallies()] == [3, 3]


def test_reading_says_what_stood_in_clear():
    machine = attacker(attack("read"))
    notices = [machine.receive(p, "left", 0.0).notices[0] for p in (probe(1, 120), esp(1))]
    assert [notice.details["clear"] for notice in notices] == [120, 0]


def test_what_is_held_is_bounded():
    machine = attacker(attack("delay", delay=10.0))
    for number in range(MOST_HELD):
        machine.receive(esp(number), "left", 0.0)
    result = machine.receive(esp(0), "left", 0.0)
    assert result.packets == ()
    assert [notice.event for notice in result.notices] == ["attacker_dropped"]
    assert len(machine.release(10.0).packets) == MOST_HELD


def test_what_is_drawn_is_drawn_by_the_packet():
    def struck(seed, *others):
        machine = attacker(attack("drop", probability=0.5), *others, seed=seed)
        return [not packets for packets in passed(machine, *map(esp, range(200)))]

    assert struck(1) == struck(1, attack("read", probability=0.5))
    assert struck(1) != struck(2)
    assert 70 < sum(struck(1)) < 130


def test_attacks_that_befell_nothing_are_refused():
    with pytest.raises(NothingAttacked, match=r"attack 'x' at mal befell no packet \(3 crossed"):
        require_attacks([Tally("x", "mal", 3, 0, 0), Tally("y", "mal", 3, 1, 0)])
    require_attacks([Tally("x", "mal", 3, 1, 0)])


# --- attacks one after the other -----------------------------------------------------------------


def ike_sa_init(notifies=20):
    payloads = (
        NoncePayload(bytes(32)),
        *(NotifyPayload(NotifyType(16430), bytes(20)) for _ in range(notifies)),
    )
    message = Message(
        spi_i=bytes(range(8)),
        spi_r=bytes(8),
        exchange=ExchangeType.IKE_SA_INIT,
        initiator=True,
        response=False,
        message_id=0,
        payloads=payloads,
    )
    segment = build_udp(A, 500, B, 500, message.encode())
    return build_ipv4(A, B, IpProtocol.UDP, segment)


@pytest.mark.parametrize(
    "second",
    [
        attack("alter", octet=400),
        attack("alter", octet=-1, mask=b"\xff" * 8),
        attack("alter", field="payload"),
        attack("alter", field="payload", mask=b"\xff" * 9, repair=False),
        attack("downgrade", name="again", notifies=(16430,)),
        attack("forge"),
        attack("spoof", address=IPv4Address(H1)),
    ],
)
def test_an_attack_sees_what_the_earlier_ones_have_left(second):
    first = attack("downgrade", name="first", notifies=(16430,))
    for packet in passed(attacker(first, second), ike_sa_init())[0]:
        header = decode_ipv4_header(packet)
        assert header.total_length == len(packet) < len(ike_sa_init())
        if second.repair:
            decode_udp(packet[20:])
            assert mended(packet, look(packet)) == packet


def test_what_an_attack_makes_unreadable_passes_the_later_ones():
    broken = attack("alter", name="version", octet=0, mask=b"\xf0")
    machine = attacker(broken, attack("alter", field="payload"), attack("downgrade"))
    ((packet,),) = passed(machine, probe(1))
    assert packet[0] >> 4 != 4
