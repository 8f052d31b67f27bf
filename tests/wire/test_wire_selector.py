"""Traffic selectors as sets of packets: matching, narrowing, and their text."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.errors import WireError
from ipseclab.registry import IpProtocol, PayloadType, TsType
from ipseclab.wire.buffer import Reader
from ipseclab.wire.message import decode_payloads
from ipseclab.wire.payloads import TsiPayload
from ipseclab.wire.selector import (
    ANY_PORTS,
    OPAQUE_PORTS,
    TrafficSelector,
    decode_selector,
)

V4 = TsType.TS_IPV4_ADDR_RANGE


def v4(start, end, protocol=0, ports=ANY_PORTS):
    first, last = (ip_address(text).packed for text in (start, end))
    return TrafficSelector(V4, protocol, *ports, first, last)


# Small domains, so that ranges meet often.
small_addresses = st.integers(0, 7).map(lambda n: bytes([10, 0, 0, n]))
small_ports = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(lambda p: (min(p), max(p)))
small_selectors = st.builds(
    lambda protocol, ports, ends: TrafficSelector(V4, protocol, *ports, *sorted(ends)),
    st.sampled_from([0, 6, 17]),
    st.just(ANY_PORTS) | small_ports,
    st.tuples(small_addresses, small_addresses),
)


@given(
    small_selectors, small_selectors, small_addresses, st.sampled_from([6, 17]), st.integers(0, 6)
)
def test_an_intersection_matches_what_both_match(one, two, address, protocol, port):
    both = one.contains(address, protocol, port) and two.contains(address, protocol, port)
    common = one.intersection(two)
    assert (common is not None and common.contains(address, protocol, port)) == both


@given(small_selectors, small_selectors)
def test_intersection_and_subset_agree(one, two):
    common = one.intersection(two)
    assert common == two.intersection(one)
    if common is not None:
        assert common.is_subset_of(one)
        assert common.is_subset_of(two)
    assert one.is_subset_of(two) == (common == one)
    assert one.is_subset_of(one)


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (TrafficSelector.of_network("10.1.0.0/24"), "10.1.0.0/24"),
        (TrafficSelector.of_network("0.0.0.0/0"), "0.0.0.0/0"),
        (TrafficSelector.of_network("2001:db8::/32"), "2001:db8::/32"),
        (TrafficSelector.of_address("10.1.0.9"), "10.1.0.9/32"),
        (TrafficSelector.of_address(b"\x0a\1\0\x09"), "10.1.0.9/32"),
        (v4("10.1.0.1", "10.1.0.9", 17, (53, 53)), "10.1.0.1-10.1.0.9[udp/53]"),
        (v4("10.1.0.0", "10.1.0.255", 6), "10.1.0.0/24[tcp]"),
        (v4("10.1.0.1", "10.1.0.2"), "10.1.0.1-10.1.0.2"),
        (v4("10.1.0.0", "10.1.0.255", 6, (1024, 65535)), "10.1.0.0/24[tcp/1024-65535]"),
        (v4("10.1.0.0", "10.1.0.255", 6, OPAQUE_PORTS), "10.1.0.0/24[tcp/opaque]"),
        (v4("10.1.0.0", "10.1.0.255", 0, (53, 53)), "10.1.0.0/24[any/53]"),
        (v4("10.1.0.0", "10.1.0.255", 1, (0x0800, 0x08FF)), "10.1.0.0/24[icmp/8(0)-8(255)]"),
        (TrafficSelector(TsType(10), 0, 0, 0, b"", b"", b"\xca\xfe"), "UNASSIGNED_10[cafe]"),
    ],
)
def test_text(selector, text):
    assert str(selector) == text


def test_contains_looks_at_address_protocol_and_port():
    selector = TrafficSelector.of_network("10.1.0.0/24", IpProtocol.UDP, (53, 60))
    assert selector.contains(b"\x0a\1\0\0", 17, 53)
    assert selector.contains(b"\x0a\1\0\xff", 17, 60)
    assert not selector.contains(b"\x0a\1\1\0", 17, 53)
    assert not selector.contains(b"\x0a\1\0\0", 6, 53)
    assert not selector.contains(b"\x0a\1\0\0", 17, 61)
    assert not selector.contains(bytes(16), 17, 53)


def test_families_never_meet():
    one, two = TrafficSelector.of_network("0.0.0.0/0"), TrafficSelector.of_network("::/0")
    assert one.intersection(two) is None
    assert not one.is_subset_of(two)


@pytest.mark.rfc("7296", "3.13.1", "MUST", "any")
def test_any_takes_in_opaque_ports_and_a_range_does_not():
    hidden = v4("10.1.0.0", "10.1.0.255", 6, OPAQUE_PORTS)
    everything = v4("10.1.0.0", "10.1.0.255", 6)
    assert hidden.intersection(everything) == hidden
    assert hidden.is_subset_of(everything)
    assert not everything.is_subset_of(hidden)
    assert hidden.intersection(v4("10.1.0.0", "10.1.0.255", 6, (0, 1000))) is None
    assert not hidden.contains(b"\x0a\1\0\0", 6, 80)


@pytest.mark.rfc("7296", "3.13.1", "MUST", "opaque")
def test_opaque_ports_on_the_wire():
    hidden = v4("10.1.0.0", "10.1.0.255", 6, OPAQUE_PORTS)
    assert hidden.encode()[4:8] == b"\xff\xff\0\0"
    assert decode_selector(Reader(hidden.encode())) == hidden


@pytest.mark.rfc("7296", "3.13", "MUST", "reserved")
def test_reserved_octets_of_a_selector_payload_are_ignored():
    selector = v4("10.1.0.0", "10.1.0.255", 0)
    clean = TsiPayload((selector,)).encode()
    assert clean[:4] == b"\1\0\0\0"
    chain = bytes([0, 0, 0, 4 + len(clean)]) + b"\1\xff\xff\xff" + clean[4:]
    assert decode_payloads(PayloadType.TSI, chain) == (TsiPayload((selector,)),)


def test_an_unknown_type_matches_nothing_and_is_kept():
    octets = bytes.fromhex("0a110008deadbeef")
    selector = decode_selector(Reader(octets))
    assert not selector.known
    assert selector.encode() == octets
    assert not selector.contains(b"", 0, 0)
    assert not selector.contains(b"\x0a\1\0\0", 0x11, 0)
    assert selector.intersection(selector) is None
    assert not selector.is_subset_of(selector)


@pytest.mark.parametrize(
    "octets",
    [
        "07000003",
        "07000010 0000ffff 0a010000",
        "07000014 0000ffff 0a010000 0a0100ff 00000000",
        "08000010 0000ffff 0a010000 0a0100ff",
        "07000010 0000ffff 0a0100ff 0a010000",
        "07000010 00020001 0a010000 0a0100ff",
    ],
    ids=["header", "cut", "too long", "IPv6 of IPv4 size", "addresses inverted", "ports inverted"],
)
def test_a_wrong_selector_is_refused(octets):
    with pytest.raises(WireError):
        decode_selector(Reader(bytes.fromhex(octets)))


@pytest.mark.parametrize("text", ["10.1.0.0/33", "10.1.0.1/24", "gw1", ""])
def test_a_text_that_is_no_network_is_refused(text):
    with pytest.raises(ValueError, match=r"network|address|host bits|prefix"):
        TrafficSelector.of_network(text)


def test_a_selector_beyond_its_length_field_is_not_sent():
    with pytest.raises(WireError, match="at most 65535"):
        TrafficSelector(TsType(10), 0, 0, 0, b"", b"", bytes(65532)).encode()
