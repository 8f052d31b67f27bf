"""Messages in fragments (RFC 7383): cut, reordered, repeated, lost, wrong, and within bounds."""

from dataclasses import replace
from itertools import permutations

import pytest
from forge import forge, ike_sa, path_to, receive
from hypothesis import given
from hypothesis import strategies as st
from pair import CONNECTION, connection, make_pair
from transcript import ike_octets

from ipseclab.errors import WireError
from ipseclab.ike import fragments
from ipseclab.ike.fragments import COLLECTION_TIMEOUT, Reassembly
from ipseclab.ike.proposals import parse_ike_proposal
from ipseclab.ike.protection import MAX_FRAGMENTS, Envelope, Fragment, Verified
from ipseclab.registry import ExchangeType, NotifyType, PayloadType
from ipseclab.wire.message import Message, decode_message
from ipseclab.wire.payloads import SkfPayload, SkPayload, VendorPayload
from ipseclab.wire.selector import TrafficSelector

IPV4_UDP = 28
SPI = b"own spi."
MANY = tuple(
    tuple(TrafficSelector.of_network(f"10.{side}.0.{host}/32") for host in range(2, 62))
    for side in (1, 2)
)
"""Selectors that make IKE_AUTH and CREATE_CHILD_SA too long for one datagram, both ways."""


def long_pair(**changes):
    """Two ends whose connection has many traffic selectors."""
    return make_pair(
        a={"own_ts": MANY[0], "peer_ts": MANY[1]},
        b={"own_ts": MANY[1], "peer_ts": MANY[0]},
        **{"both": {"fragment_size": 576}, **changes},
    )


def parts_of(pair, exchange, *, response=None):
    return [
        sent
        for sent in pair.sent
        if sent.is_ike(exchange, response=response) and skf(sent) is not None
    ]


def skf(sent):
    return decode_message(ike_octets(sent)).find(SkfPayload)


def fragment(number, total, octets=b"part", *, message_id=1, response=False):
    head = Message(b"i" * 8, b"r" * 8, ExchangeType.IKE_AUTH, True, response, message_id)
    first = PayloadType.VENDOR if number == 1 else PayloadType.NONE
    return Fragment(head, number, total, first, octets)


def cut(pair, sender, *payloads, largest=200, message_id=None):
    """A request of `sender` in fragments that it did not mean to send."""
    sa = ike_sa(pair, sender)
    number = message_id if message_id is not None else sa.next_message_id
    envelope = Envelope(sa.spi_i, sa.spi_r, ExchangeType.INFORMATIONAL, sa.initiator, False, number)
    return sa.protection.seal_to_fit(envelope, payloads, largest)


@pytest.mark.rfc("7383", "2.4", "MAY", "cut-first")
@pytest.mark.rfc("7383", "2.5", "MUST", "number-from-1")
@pytest.mark.rfc("7383", "2.5", "MUST", "first-payload")
@pytest.mark.rfc("7383", "2.5", "MUST", "no-payload")
def test_long_messages_go_in_fragments_that_fit_and_the_connection_stands():
    pair = long_pair()
    pair.connect()
    for response in (False, True):
        parts = parts_of(pair, ExchangeType.IKE_AUTH, response=response)
        assert len(parts) > 2
        assert [skf(part).number for part in parts] == list(range(1, len(parts) + 1))
        assert {skf(part).total for part in parts} == {len(parts)}
        kinds = [skf(part).first for part in parts]
        assert kinds[0] != PayloadType.NONE
        assert set(kinds[1:]) == {PayloadType.NONE}
        assert max(IPV4_UDP + len(part.item.data) for part in parts) <= 576
        # Full, up to the granularity of the cipher (1 octet for GCM).
        assert IPV4_UDP + len(parts[0].item.data) == 576
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    assert parts_of(pair, ExchangeType.CREATE_CHILD_SA, response=True)
    assert len(pair.a.ike.child_sas) == 1
    assert pair.spis(0) == pair.spis(1)
    assert pair.a.ike.table_sizes["fragments"] == pair.b.ike.table_sizes["fragments"] == 0


@pytest.mark.parametrize(
    "proposal",
    ["aes128-sha256-x25519", "aes256gcm16-prfsha384-x25519", "chacha20poly1305-prfsha256-x25519"],
)
def test_every_kind_of_cipher_is_cut_to_the_size(proposal):
    suite = {"fragment_size": 700, "ike_proposals": (parse_ike_proposal(proposal),)}
    pair = long_pair(both=suite)
    pair.connect()
    parts = parts_of(pair, ExchangeType.IKE_AUTH)
    sizes = [IPV4_UDP + len(part.item.data) for part in parts]
    assert max(sizes) <= 700
    assert max(sizes) > 700 - 16
    assert len(pair.spis(0) & pair.spis(1)) == 1


@pytest.mark.rfc("7383", "2.5.1", "SHOULD", "ipv6-size")
def test_default_size_is_that_of_rfc_7383_for_any_path():
    pair = long_pair(both={})
    pair.connect()
    sizes = [IPV4_UDP + len(p.item.data) for p in parts_of(pair, ExchangeType.IKE_AUTH)]
    assert max(sizes) == 1280


def test_marker_on_port_4500_counts():
    pair = long_pair(both={"fragment_size": 576, "force_encapsulation": True})
    pair.connect()
    parts = parts_of(pair, ExchangeType.IKE_AUTH)
    assert {part.item.path.local.port for part in parts} == {4500}
    assert max(IPV4_UDP + len(part.item.data) for part in parts) == 576
    assert len(pair.spis(0) & pair.spis(1)) == 1


def test_a_message_that_fits_is_what_it_would_be_without_fragmentation():
    with_it, without = (make_pair(both={"fragmentation": on}) for on in (True, False))
    for pair in (with_it, without):
        pair.connect()
        sa = ike_sa(pair, 0)
        payloads = (VendorPayload(b"v" * 100),)
        envelope = Envelope(sa.spi_i, sa.spi_r, ExchangeType.IKE_AUTH, True, False, 7)
        whole = sa.protection.seal(envelope, payloads)
        sa.protection._sealed -= 1
        assert sa.protection.seal_to_fit(envelope, payloads, len(whole)) == (whole,)
        assert not any(skf(sent) for sent in pair.sent if sent.header)
        pair.agreed()


@pytest.mark.rfc("7383", "2.3", "MUST NOT", "both-said-so")
@pytest.mark.rfc("7383", "2.3", "MAY", "answer-notify")
@pytest.mark.parametrize(("a", "b"), [(True, False), (False, True), (False, False)])
def test_nothing_is_cut_unless_both_ends_say_that_they_can(a, b):
    pair = make_pair(
        a={"own_ts": MANY[0], "peer_ts": MANY[1], "fragmentation": a},
        b={"own_ts": MANY[1], "peer_ts": MANY[0], "fragmentation": b},
    )
    pair.connect()
    said = [
        decode_message(ike_octets(sent)).notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)
        for sent in pair.sent[:2]
    ]
    assert [notify is not None for notify in said] == [a, False]
    assert not parts_of(pair, ExchangeType.IKE_AUTH)
    assert len(pair.spis(0) & pair.spis(1)) == 1


@pytest.mark.rfc("7383", "2.6", "MUST", "together")
@pytest.mark.parametrize("order", ["reversed", "odd ones first", "each twice"])
def test_fragments_in_any_order_and_number_are_one_message(order):
    pair = long_pair()

    def fate(sent):
        part = skf(sent) if sent.header else None
        if part is None:
            return (0.0,)
        if order == "reversed":
            return ((part.total - part.number) * 0.01,)
        return (0.0, 0.005) if order == "each twice" else (0.02 * (part.number % 2 == 0),)

    pair.fate = fate
    pair.connect()
    assert len(pair.spis(0) & pair.spis(1)) == 1
    assert len(pair.events("ike_established")) == 2


@pytest.mark.rfc("7383", "2.6", "MUST", "repeated")
@pytest.mark.rfc("7383", "2.6.1", "MUST", "all-again")
def test_a_lost_fragment_costs_one_retransmission_of_all_of_them():
    pair = long_pair()
    lost = []

    def lose_one(sent):
        if sent.is_ike(ExchangeType.IKE_AUTH, response=False) and skf(sent).number == 2:
            lost.append(sent)
            return () if len(lost) == 1 else (0.0,)
        return (0.0,)

    pair.fate = lose_one
    pair.do(0, "initiate", CONNECTION)
    pair.run(1.0)
    assert not pair.a.ike.child_sas
    assert pair.b.ike.table_sizes["fragments"] == 1
    pair.run(5.0)
    assert len(pair.spis(0) & pair.spis(1)) == 1
    requests = parts_of(pair, ExchangeType.IKE_AUTH, response=False)
    total = skf(requests[0]).total
    assert [ike_octets(sent) for sent in requests[:total]] == [
        ike_octets(sent) for sent in requests[total:]
    ]
    assert pair.b.counters["ike.fragment_repeated"] == 1
    assert pair.b.ike.table_sizes["fragments"] == 0


@pytest.mark.rfc("7383", "2.6.1", "MUST", "one-asks")
def test_a_lost_response_is_sent_again_once_for_the_first_fragment_of_the_repeat():
    pair = long_pair()
    lost = []

    def lose_the_first_response(sent):
        if sent.is_ike(ExchangeType.IKE_AUTH, response=True) and skf(sent).number == 1:
            lost.append(sent)
            return () if len(lost) == 1 else (0.0,)
        return (0.0,)

    pair.fate = lose_the_first_response
    pair.do(0, "initiate", CONNECTION)
    pair.run(6.0)
    responses = parts_of(pair, ExchangeType.IKE_AUTH, response=True)
    total = skf(responses[0]).total
    assert len(responses) == 2 * total
    assert [ike_octets(s) for s in responses[:total]] == [ike_octets(s) for s in responses[total:]]
    assert pair.b.counters["ike.repeated_requests"] == 1
    assert len(pair.events("ike_established", 1)) == 1
    assert len(pair.spis(0) & pair.spis(1)) == 1


@pytest.mark.rfc("7383", "2.5.2", "MAY", "smaller")
@pytest.mark.rfc("7383", "2.5.2", "MUST", "more-pieces")
def test_a_path_too_narrow_for_the_fragments_gets_smaller_ones():
    """RFC 7383 section 2.5.2: after some retransmissions the message is cut anew."""
    pair = long_pair(both={"fragment_size": 1280})

    pair.fate = lambda sent: () if sent.sender == 0 and len(sent.item.data) > 900 else (0.0,)
    pair.do(0, "initiate", CONNECTION)
    pair.run(30.0)
    totals = [skf(s).total for s in parts_of(pair, ExchangeType.IKE_AUTH, response=False)]
    assert totals[0] < totals[-1]
    assert len(pair.spis(0) & pair.spis(1)) == 1


@pytest.mark.rfc("7383", "2.6", "MUST", "smaller-total")
@pytest.mark.rfc("7383", "2.6", "MUST", "larger-total")
def test_the_receiver_starts_over_when_the_message_is_cut_into_more_pieces():
    pair = make_pair()
    pair.connect()
    vendor = VendorPayload(bytes(600))
    few, many = cut(pair, 0, vendor, largest=400), cut(pair, 0, vendor, largest=200)
    assert len(few) < len(many)
    assert receive(pair, 1, few[0]) == []
    for part in many[:-1]:
        assert receive(pair, 1, part) == []
    # What is left of the coarser cut does no harm.
    assert receive(pair, 1, few[1]) == []
    assert pair.b.counters["ike.fragment_total"] == 1
    assert len(receive(pair, 1, many[-1])) == 1


def test_a_whole_message_ends_the_collection_of_its_fragments():
    pair = make_pair()
    pair.connect()
    parts = cut(pair, 0, VendorPayload(bytes(600)))
    receive(pair, 1, parts[0])
    assert pair.b.ike.table_sizes["fragments"] == 1
    assert len(receive(pair, 1, forge(pair, 0, ExchangeType.INFORMATIONAL))) == 1
    assert pair.b.ike.table_sizes["fragments"] == 0
    pair.do(0, "check_liveness", CONNECTION)


def test_fragments_of_an_answered_or_a_future_request_are_not_kept():
    pair = make_pair()
    pair.connect()
    vendor = VendorPayload(bytes(600))
    parts = cut(pair, 0, vendor)
    answers = [receive(pair, 1, part) for part in parts]
    assert [len(answer) for answer in answers] == [0] * (len(parts) - 1) + [1]
    again = [receive(pair, 1, part) for part in parts]
    assert [len(answer) for answer in again] == [1] + [0] * (len(parts) - 1)
    assert ike_octets(again[0][0]) == ike_octets(answers[-1][0])
    for message_id in (0, 4, 0xFFFFFFFF):
        for part in cut(pair, 0, vendor, message_id=message_id):
            assert receive(pair, 1, part) == []
    assert pair.b.ike.table_sizes["fragments"] == 0


@pytest.mark.rfc("7383", "2.5", "MUST", "own-protection")
@pytest.mark.rfc("7383", "2.6", "MUST", "bad-icv")
def test_a_forged_fragment_is_not_kept():
    pair = make_pair()
    pair.connect()
    parts = cut(pair, 0, VendorPayload(bytes(600)))
    for at in (29, 33, 35, 60, len(parts[0]) - 1):
        bad = bytearray(parts[0])
        bad[at] ^= 1
        assert receive(pair, 1, bytes(bad)) == []
    assert pair.b.ike.table_sizes["fragments"] == 0
    assert pair.b.counters["ike.bad_icv"] + pair.b.counters["ike.malformed"] == 5
    pair.agreed()


def test_fragments_that_were_never_agreed_upon_are_dropped():
    pair = make_pair(both={"fragmentation": False})
    pair.connect()
    for part in cut(pair, 0, VendorPayload(bytes(600))):
        assert receive(pair, 1, part) == []
    assert pair.b.counters["ike.fragment_unexpected"] > 1
    pair.agreed()


@pytest.mark.rfc("7383", "2.6", "MUST", "give-up")
def test_an_incomplete_message_is_forgotten_in_time():
    pair = make_pair()
    pair.connect()
    receive(pair, 1, cut(pair, 0, VendorPayload(bytes(600)))[0])
    pair.run(COLLECTION_TIMEOUT - 1.0)
    assert pair.b.ike.table_sizes["fragments"] == 1
    pair.run(2.0)
    assert pair.b.ike.table_sizes["fragments"] == 0


def test_an_incomplete_message_is_forgotten_with_its_ike_sa():
    pair = make_pair()
    pair.connect()
    receive(pair, 1, cut(pair, 0, VendorPayload(bytes(600)))[0])
    pair.do(1, "delete_ike", CONNECTION)
    pair.run(1.0)
    assert pair.b.ike.table_sizes["fragments"] == 0


def test_nonsense_in_fragments_is_answered_like_any_other():
    pair = make_pair()
    pair.connect()
    sa = ike_sa(pair, 0)
    head = Envelope(sa.spi_i, sa.spi_r, ExchangeType.INFORMATIONAL, True, False, 2)
    *parts, _last = sa.protection.seal_to_fit(head, (VendorPayload(bytes(600)),), 200)
    for part in parts:
        receive(pair, 1, part)
    # The last one again, of a length that breaks the chain of payloads.
    number = len(parts) + 1
    wrong = sa.protection._seal(
        head, PayloadType.SKF, PayloadType.NONE, b"x", bytes([0, number, 0, number])
    )
    (answer,) = receive(pair, 1, wrong)
    assert decode_message(ike_octets(answer)).find(SkPayload) is not None
    assert pair.b.counters["ike.invalid_syntax"] == 1


@pytest.mark.rfc("7383", "2.6", "MUST", "check-numbers")
def test_a_message_of_too_many_fragments_is_refused_before_its_icv():
    pair = make_pair()
    pair.connect()
    sa = ike_sa(pair, 0)
    head = Envelope(sa.spi_i, sa.spi_r, ExchangeType.INFORMATIONAL, True, False, 2)
    total = (MAX_FRAGMENTS + 1).to_bytes(2, "big")
    octets = sa.protection._seal(head, PayloadType.SKF, PayloadType.NONE, b"x", b"\0\1" + total)
    assert receive(pair, 1, octets) == []
    assert pair.b.counters["ike.malformed"] == 1


def test_sending_more_than_the_limit_of_fragments_is_our_own_bug():
    pair = make_pair()
    pair.connect()
    with pytest.raises(WireError, match=f"at most {MAX_FRAGMENTS}"):
        cut(pair, 0, VendorPayload(bytes(60_000)), largest=100)
    with pytest.raises(WireError, match="no fragment fits"):
        cut(pair, 0, VendorPayload(bytes(600)), largest=40)


# Reassembly on its own.


@pytest.mark.rfc("7383", "2.6", "MUST", "together")
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=7), st.randoms())
def test_reassembly_gives_back_what_was_cut_whatever_the_order(parts, rng):
    reassembly = Reassembly()
    numbered = [fragment(number, len(parts), part) for number, part in enumerate(parts, 1)]
    rng.shuffle(numbered)
    results = [reassembly.collect(SPI, part, 0.0) for part in numbered]
    assert results[:-1] == [None] * (len(parts) - 1)
    assert isinstance(results[-1], Verified)
    assert results[-1].octets == b"".join(parts)
    assert results[-1].first == PayloadType.VENDOR
    assert (len(reassembly), reassembly.octets) == (0, 0)


@pytest.mark.rfc("7383", "2.6", "MUST", "repeated")
def test_every_order_of_three_fragments_with_a_repeat_of_any():
    for order in permutations((1, 2, 3)):
        for repeated in (1, 2, 3):
            reassembly = Reassembly()
            results = []
            for number in order:
                results.append(reassembly.collect(SPI, fragment(number, 3), 0.0))
                if number == repeated and number != order[-1]:
                    again = reassembly.collect(SPI, fragment(number, 3), 0.0)
                    assert again == "fragment_repeated"
            assert isinstance(results[-1], Verified)


def test_requests_and_responses_of_one_message_id_are_kept_apart():
    reassembly = Reassembly()
    assert reassembly.collect(SPI, fragment(1, 2), 0.0) is None
    assert reassembly.collect(SPI, fragment(2, 2, response=True), 0.0) is None
    assert reassembly.collect(b"another.", fragment(2, 2), 0.0) is None
    assert len(reassembly) == 3
    reassembly.forget(SPI)
    assert len(reassembly) == 1


@pytest.mark.rfc("7383", "4", "SHOULD", "bounded")
def test_octets_of_one_message_are_bounded():
    reassembly = Reassembly()
    assert reassembly.collect(SPI, fragment(1, 3, bytes(40_000)), 0.0) is None
    assert reassembly.collect(SPI, fragment(2, 3, bytes(40_000)), 0.0) == "fragments_too_long"
    assert (len(reassembly), reassembly.octets) == (0, 0)


@pytest.mark.rfc("7383", "4", "SHOULD", "bounded")
def test_messages_of_an_endpoint_are_bounded_and_the_oldest_goes(monkeypatch):
    monkeypatch.setattr(fragments, "MAX_COLLECTIONS", 3)
    reassembly = Reassembly()
    for message_id in range(5):
        reassembly.collect(SPI, fragment(1, 2, message_id=message_id), 0.0)
    assert len(reassembly) == 3
    assert reassembly.collect(SPI, fragment(2, 2, message_id=1), 0.0) is None
    assert isinstance(reassembly.collect(SPI, fragment(2, 2, message_id=4), 0.0), Verified)


@pytest.mark.rfc("7383", "4", "SHOULD", "bounded")
def test_octets_of_an_endpoint_are_bounded_and_the_oldest_goes(monkeypatch):
    monkeypatch.setattr(fragments, "MAX_COLLECTED_OCTETS", 1000)
    reassembly = Reassembly()
    for message_id in range(9):
        reassembly.collect(SPI, fragment(1, 2, bytes(300), message_id=message_id), 0.0)
    assert (len(reassembly), reassembly.octets) == (3, 900)


def test_what_is_too_old_is_begun_anew():
    reassembly = Reassembly()
    reassembly.collect(SPI, fragment(1, 2), 0.0)
    assert reassembly.collect(SPI, fragment(2, 2), COLLECTION_TIMEOUT) is None
    assert isinstance(reassembly.collect(SPI, fragment(1, 2), COLLECTION_TIMEOUT + 1.0), Verified)


def test_fragment_size_of_a_connection_is_that_of_the_whole_packet():
    config = replace(connection(0), fragment_size=600)
    path = path_to(0)
    assert fragments.largest_message(path, config.fragment_size) == 572
    assert fragments.largest_message(path_to(0, port=4500), 600) == 568
