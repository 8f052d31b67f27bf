"""Reauthentication (RFC 7296 section 2.8.3, RFC 4478; case 20): no gap in traffic, several
CHILD_SAs, by either end, against rekeys, lost messages, failures; break before make."""

from dataclasses import replace
from ipaddress import IPv4Address
from itertools import pairwise

import pytest
from forge import forge, ike_sa, receive
from pair import CONNECTION, PSK, make_pair
from transcript import transcript

from ipseclab.ike.config import Narrowing, SharedKeyAuth
from ipseclab.ike.configuration import AddressPool, AddressRequest, Provision
from ipseclab.ike.eap.settings import EapAuth, EapDemand
from ipseclab.ike.informational import REAUTHENTICATED
from ipseclab.ike.reauth import GRACE, TOO_OLD
from ipseclab.ike.timers import TimerKind
from ipseclab.registry import EapType, ExchangeType, NotifyType
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.payloads import NotifyPayload
from ipseclab.wire.selector import TrafficSelector

SPACING = 0.004


def with_traffic(pair, seconds, sides=(0, 1)):
    """Packets both ways all the time; how many each side was sent and did not get."""
    sent = {side: [] for side in sides}
    start = [len(delivered) for delivered in pair.delivered]
    end = pair.now + seconds
    number = 0
    while pair.now < end:
        for side in sides:
            number += 1
            sent[side].append(pair.send(side, number))
        pair.run(SPACING)
    pair.run(1.0)
    return [
        len(sent.get(1 - side, ())) - len(pair.delivered[side][start[side] :]) for side in (0, 1)
    ]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("sides", [(0, 1), (0,), (1,)])
def test_no_packet_is_lost_while_an_end_authenticates_anew(side, sides):
    pair = make_pair()
    pair.connect()
    old = pair.ike_spis(0)
    with_traffic(pair, 0.1, sides)
    pair.do(side, "reauthenticate", CONNECTION)
    assert with_traffic(pair, 0.5, sides) == [0, 0]
    assert not pair.ike_spis(0) & old
    assert not pair.events("packet_dropped")
    assert not pair.events("acquire")
    pair.agreed()


def test_packet_that_waits_in_no_queue():
    """Nothing is sent later than on an SA that is not being replaced."""
    pair = make_pair()
    pair.connect()
    with_traffic(pair, 0.1)
    pair.do(0, "reauthenticate", CONNECTION)
    first = len(pair.sent)
    with_traffic(pair, 0.3)
    esp = [sent for sent in pair.sent[first:] if sent.header is None]
    for side in (0, 1):
        times = [sent.at for sent in esp if sent.sender == side]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert max(gaps) == pytest.approx(SPACING)


def test_exchanges():
    pair = make_pair()
    pair.connect()
    first = len(pair.sent)
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(1.0)
    lines = transcript(pair, first=first)
    assert [line.split(":")[0] for line in lines] == [
        "a --> IKE_SA_INIT",
        "b <-- IKE_SA_INIT",
        "a --> IKE_AUTH",
        "b <-- IKE_AUTH",
        "a --> INFORMATIONAL",
        "b <-- INFORMATIONAL",
    ]
    assert "INITIAL_CONTACT" not in lines[2]
    assert "REKEY_SA" not in "".join(lines)
    assert lines[4] == "a --> INFORMATIONAL: SK {D(IKE)}"
    assert pair.events("ike_gone", 0)[0].details["reason"] == REAUTHENTICATED


def test_each_of_several_child_sas_is_made_again():
    pair = make_pair(both={"narrowing": Narrowing.PACKET})
    for number in range(3):
        source, target = f"10.1.0.{number + 5}", f"10.2.0.{number + 5}"
        packet = _packet(source, target)
        pair.do(0, "send_packet", packet)
        pair.run(1.0)
    before = _selectors(pair)
    assert len(before) == 3
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(5.0)
    assert before <= _selectors(pair)
    assert len(pair.ike_spis(0)) == 1
    assert not pair.events("acquire")[3:]


def _packet(source, target):
    ends = IPv4Address(source).packed, IPv4Address(target).packed
    return build_ipv4(*ends, 17, build_udp(ends[0], 1, ends[1], 2, b"x"))


def _selectors(pair):
    return {(str(c.own_ts[0]), str(c.peer_ts[0])) for c in pair.a.ike.child_sas}


def test_resources_are_made_again():
    pair = make_pair(both={"resources": 3})
    pair.connect()
    assert len(pair.spis(0)) == 3
    old = pair.spis(0)
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(5.0)
    assert len(pair.spis(0)) == 3
    assert pair.spis(0) == pair.spis(1)
    assert not pair.spis(0) & old


def test_it_happens_in_time_and_again():
    pair = make_pair(both={"reauthentication": 100.0})
    pair.connect()
    for _ in range(3):
        old = pair.ike_spis(0)
        done = pair.now
        while pair.ike_spis(0) == old:
            pair.run(1.0)
            assert pair.now - done < 96.0
        pair.run(2.0)
        assert len(pair.ike_spis(0)) == 1
    assert not pair.events("reauth_started", 1)
    pair.agreed()


def test_rekeys_do_not_put_it_off():
    pair = make_pair(both={"reauthentication": 100.0})
    pair.connect()
    for side in (0, 1, 0, 1, 0, 1, 0, 1):
        pair.run(10.0)
        pair.do(side, "rekey_ike", CONNECTION)
    pair.run(20.0)
    assert len(pair.events("reauth_done", 0)) == 1
    pair.agreed()


def test_gateway_says_how_long_and_the_client_keeps_to_it():
    pair = make_pair(b={"reauthentication": 60.0})
    pair.connect()
    assert transcript(pair)[3].endswith("N(AUTH_LIFETIME)}")
    pair.run(60.0)
    assert len(pair.events("reauth_done", 0)) == 1
    assert with_traffic(pair, 0.1) == [0, 0]


def test_gateway_says_so_later():
    pair = make_pair()
    pair.connect()
    for seconds in (b"", bytes(4), (50).to_bytes(4, "big")):
        said = NotifyPayload(NotifyType.AUTH_LIFETIME, seconds)
        receive(pair, 0, forge(pair, 1, ExchangeType.INFORMATIONAL, said))
        ike_sa(pair, 1).next_message_id += 1
    pair.run(51.0)
    assert len(pair.events("reauth_done", 0)) == 1


EAP_ROLES = {
    "a": {
        "own_auth": (EapAuth((EapType.MSCHAPV2,), "p"),),
        "peer_auth": (SharedKeyAuth(PSK),),
    },
    "b": {
        "own_auth": (SharedKeyAuth(PSK),),
        "peer_auth": (EapDemand((EapType.MSCHAPV2,), (("a.example.org", "p"),)),),
    },
}


def test_end_that_eap_bars_from_it_leaves_it_to_the_other_and_lets_go_in_the_end():
    pair = make_pair(a=EAP_ROLES["a"], b={**EAP_ROLES["b"], "reauthentication": 50.0})
    pair.connect()
    pair.do(1, "reauthenticate", CONNECTION)
    assert pair.events("cannot_initiate", 1)
    pair.run(50.0)
    assert len(pair.events("reauth_done", 0)) == 1
    # A client that does not care.
    deaf = make_pair(a=EAP_ROLES["a"], b={**EAP_ROLES["b"], "reauthentication": 50.0})
    deaf.connect()
    ike_sa(deaf, 0).session.renew = None
    deaf.a.ike._ctx.timers.cancel(ike_sa(deaf, 0).own_spi, *_reauth_timers())
    deaf.run(55.0)
    assert [n.details["reason"] for n in deaf.events("ike_gone", 1)] == [TOO_OLD]
    assert not deaf.ike_spis(0)


def _reauth_timers():
    return TimerKind.REAUTH, TimerKind.AUTH_EXPIRED


def test_responder_begins_at_the_very_end_where_it_can():
    pair = make_pair(b={"reauthentication": 50.0})
    pair.connect()
    ike_sa(pair, 0).session.renew = None
    pair.a.ike._ctx.timers.cancel(ike_sa(pair, 0).own_spi, *_reauth_timers())
    pair.run(50.0 + GRACE / 2)
    assert len(pair.events("reauth_done", 1)) == 1
    pair.agreed()


@pytest.mark.parametrize("lost", range(6))
def test_lost_and_repeated_messages(lost):
    pair = make_pair()
    pair.connect()
    first = len([sent for sent in pair.sent if sent.header])

    def fate(sent):
        number = len([one for one in pair.sent if one.header]) - 1
        return () if sent.header and number == first + lost else (0.0, 0.003)

    pair.fate = fate
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(30.0)
    pair.agreed()


def test_failure_leaves_the_old_one_in_use_and_is_tried_again():
    pair = make_pair(both={"reauthentication": 1000.0})
    pair.connect()
    old = pair.ike_spis(0)
    good = pair.gateways[0].ike._ctx._connections[CONNECTION]
    pair.gateways[0].ike._ctx._connections[CONNECTION] = replace(good, psk=b"wrong")
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(5.0)
    assert pair.events("auth_failed", 0)
    assert pair.ike_spis(0) == old
    assert with_traffic(pair, 0.1) == [0, 0]
    pair.gateways[0].ike._ctx._connections[CONNECTION] = good
    pair.run(40.0)
    assert len(pair.events("reauth_done", 0)) == 1
    pair.agreed()


def test_new_one_without_child_sas_gives_way_to_the_old_one():
    pair = make_pair()
    pair.connect()
    old = pair.ike_spis(0)
    known = pair.b.ike._ctx._possible
    (key,) = known
    good = known[key]
    elsewhere = (TrafficSelector.of_network("10.77.0.0/24"),)
    narrow = replace(good.connections[0], own_ts=elsewhere)
    known[key] = replace(good, connections=(narrow,), by_peer_id={narrow.peer_id: [narrow]})
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(5.0)
    assert pair.events("reauth_failed", 0)
    assert pair.ike_spis(0) == pair.ike_spis(1) == old
    assert with_traffic(pair, 0.1) == [0, 0]
    known[key] = good
    pair.run(60.0)
    assert len(pair.events("reauth_done", 0)) == 1
    pair.agreed()


def test_lifetime_of_no_time_is_not_gone_along_with():
    pair = make_pair()
    pair.connect()
    said = NotifyPayload(NotifyType.AUTH_LIFETIME, (1).to_bytes(4, "big"))
    for _ in range(20):
        receive(pair, 0, forge(pair, 1, ExchangeType.INFORMATIONAL, said))
        ike_sa(pair, 1).next_message_id += 1
        pair.run(0.2)
    assert not pair.events("reauth_started", 0)


@pytest.mark.parametrize("other", [0, 1])
@pytest.mark.parametrize("method", ["rekey_ike", "rekey_child", "reauthenticate"])
@pytest.mark.parametrize("after", [0.0, 0.005, 0.015, 0.025, 0.035, 0.045])
def test_against_another_exchange_at_the_same_time(method, other, after):
    pair = make_pair()
    pair.connect()
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(after)
    pair.do(other, method, CONNECTION)
    pair.run(60.0)
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert pair.spis(0) == pair.spis(1)
    assert pair.spis(0)
    assert len(pair.ike_spis(0)) == 1
    assert with_traffic(pair, 0.1) == [0, 0]


def test_break_before_make_has_a_gap():
    pair = make_pair(both={"break_before_make": True})
    pair.connect()
    old = pair.ike_spis(0)
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(2.0)
    lines = transcript(pair)
    deleted = next(n for n, line in enumerate(lines) if "D(IKE)" in line)
    authenticated = max(n for n, line in enumerate(lines) if "a --> IKE_AUTH" in line)
    assert deleted < authenticated
    assert not pair.ike_spis(0) & old
    pair.agreed()


def test_address_stays_the_same():
    pool = AddressPool.of_network("10.9.0.0/24")
    pair = make_pair(
        a={"own_ts": (TrafficSelector.of_network("0.0.0.0/0"),),
           "address_request": AddressRequest()},
        b={"peer_ts": (TrafficSelector.of_network("10.9.0.0/24"),),
           "provision": Provision((pool,))},
    )  # fmt: skip
    pair.connect()
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(2.0)
    assert len(pair.events("reauth_done", 0)) == 1
    assert [str(c.own_ts[0]) for c in pair.a.ike.child_sas] == ["10.9.0.1/32"]
    assert not pair.events("address_lost")
    assert pair.b.ike._ctx.leases.in_use == 1
    pair.do(1, "reauthenticate", CONNECTION)
    assert pair.events("cannot_initiate", 1)
    pair.do(0, "delete_ike", CONNECTION)
    pair.run(1.0)
    assert pair.b.ike._ctx.leases.in_use == 0
    assert len(pair.events("address_lost", 0)) == 1


def test_ticket_is_no_reauthentication():
    pair = make_pair(both={"resumption": 3600.0})
    pair.connect()
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(2.0)
    assert "RESUME" not in "".join(transcript(pair))
    pair.agreed()


def test_same_seed_same_octets():
    pairs = [make_pair(both={"reauthentication": 30.0}) for _ in range(2)]
    for pair in pairs:
        pair.connect()
        pair.run(100.0)
    assert [sent.item for sent in pairs[0].sent] == [sent.item for sent in pairs[1].sent]
