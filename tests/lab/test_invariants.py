"""Each invariant of `lab.schedules` is broken once on purpose, and found broken."""

import pytest
from pair import CONNECTION, make_pair

from ipseclab.ike.protection import FLAG_INITIATOR
from ipseclab.lab.schedules.invariants import (
    Holdings,
    Lines,
    MessageIds,
    Violation,
    Windows,
    busy,
    check_datapath,
    check_sealed,
    compare,
    holdings,
)
from ipseclab.registry import ExchangeType, IpProtocol, PayloadType
from ipseclab.wire.ip import build_ipv4

SPIS = bytes(range(16))


def message(message_id, *, response=False, first=46, exchange=ExchangeType.INFORMATIONAL, end=b"."):
    flags = 0x20 if response else 0
    body = bytes(8) + end
    head = SPIS + bytes([first, 0x20, exchange, flags]) + message_id.to_bytes(4, "big")
    return head + (28 + len(body)).to_bytes(4, "big") + body


def test_message_ids_in_order_and_repeats_are_fine():
    ids = MessageIds("a")
    for number in (0, 1, 1, 2, 1):
        ids.check(message(number))
    ids.check(message(2, response=True))


def test_message_id_left_out_is_found():
    ids = MessageIds("a")
    ids.check(message(0))
    with pytest.raises(Violation, match="a sent 2 after 0"):
        ids.check(message(2))


@pytest.mark.parametrize("response", [False, True])
def test_message_id_used_for_two_messages_is_found(response):
    ids = MessageIds("a")
    ids.check(message(0, response=response))
    with pytest.raises(Violation, match="used message ID 0 twice"):
        ids.check(message(0, response=response, end=b"!"))


def test_ike_sa_init_may_be_asked_again_and_fragments_share_an_id():
    ids = MessageIds("a")
    ids.check(message(0, exchange=ExchangeType.IKE_SA_INIT, first=33))
    ids.check(message(0, exchange=ExchangeType.IKE_SA_INIT, first=33, end=b"!"))
    auth = message(1, exchange=ExchangeType.IKE_AUTH, first=53)
    fragments = [bytearray(auth) for _ in range(2)]
    for number, octets in enumerate(fragments, 1):
        octets[32:36] = bytes([0, number, 0, 2])
        ids.check(bytes(octets))


@pytest.mark.parametrize(
    ("exchange", "begins"), [(ExchangeType.IKE_AUTH, 1), (ExchangeType.CREATE_CHILD_SA, 0)]
)
def test_message_ids_begin_with_0_and_at_the_initiator_of_a_set_up_with_1(exchange, begins):
    MessageIds("a").check(message(begins, exchange=exchange))
    with pytest.raises(Violation, match=f"a sent {begins + 1} after {begins - 1}"):
        MessageIds("a").check(message(begins + 1, exchange=exchange))


def test_answer_about_an_unknown_ike_sa_has_no_message_id_of_its_own():
    ids = MessageIds("a")
    ids.check(message(0, response=True))
    ids.check(message(0, response=True, first=PayloadType.NOTIFY, end=b"!"))


@pytest.mark.parametrize("window", [1, 4])
def test_request_beyond_the_window_is_found(window):
    windows = Windows(window)
    for number in range(window):
        windows.check("a", message(number))
    with pytest.raises(Violation, match=f"a sent request {window}, and 0 was not answered"):
        windows.check("a", message(window))
    from_peer = bytearray(message(0, response=True))
    from_peer[19] |= FLAG_INITIATOR
    windows.check("b", bytes(from_peer))
    windows.check("a", message(window))


def test_two_sas_of_one_line_are_found():
    pair = make_pair()
    pair.connect()
    pair.do(0, "create_child", CONNECTION)
    pair.run(1.0)
    first, second = (child.spi_in.hex() for child in pair.a.ike.child_sas)
    lines = Lines()
    lines.add(first, None)
    lines.add(second, None)
    lines.check("a", pair.a)
    lines.add(second, first)
    with pytest.raises(Violation, match="redundant: a has"):
        lines.check("a", pair.a)


def test_plain_packet_is_found():
    ends = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 1])
    check_sealed("a", build_ipv4(*ends, IpProtocol.ESP, bytes(40)))
    with pytest.raises(Violation, match="clear text: a sent a plain packet"):
        check_sealed("a", build_ipv4(*ends, IpProtocol.UDP, bytes(8)))


def test_ends_of_a_connection_that_stands_agree_and_rest():
    pair = make_pair()
    pair.connect()
    assert busy(pair.gateways) == ""
    compare("site", *(holdings(gateway, CONNECTION) for gateway in pair.gateways))


def test_what_is_under_way_is_told():
    pair = make_pair()
    pair.connect()
    pair.do(0, "check_liveness", CONNECTION)
    assert busy(pair.gateways) == "a is at: liveness"
    pair.run(1.0)
    pair.do(0, "delete_ike", CONNECTION)
    assert busy(pair.gateways) == "a has an IKE_SA deleting"


@pytest.mark.parametrize("part", range(4))
def test_every_difference_between_the_ends_is_found(part):
    pair = make_pair()
    pair.connect()
    left, right = (holdings(gateway, CONNECTION) for gateway in pair.gateways)
    fields = list(right)
    fields[part] = left.initiated if part == 1 else ()
    with pytest.raises(Violation, match="agreement"):
        compare(CONNECTION, left, Holdings(*fields))


def test_keys_count_not_only_spis():
    pair = make_pair()
    pair.connect()
    left, right = (holdings(gateway, CONNECTION) for gateway in pair.gateways)
    ((spi, _, integ),) = right.inbound
    with pytest.raises(Violation, match="agreement"):
        compare(CONNECTION, left, right._replace(inbound=((spi, bytes(20), integ),)))


def test_sad_entry_without_a_child_sa_is_a_leak():
    pair = make_pair()
    pair.connect()
    check_datapath("a", pair.a)
    (child,) = pair.a.ike.child_sas
    pair.a.datapath.remove_sa(child.spi_in, pair.now)
    with pytest.raises(Violation, match="leak: a has CHILD_SAs"):
        check_datapath("a", pair.a)
