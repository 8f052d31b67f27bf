"""Transcripts in the RFC's notation, from what two real gateways say of themselves."""

from pair import CONNECTION, make_pair

from ipseclab.ike.config import Identity
from ipseclab.lab.trace import TraceRecord
from ipseclab.present.ladder import ladder
from ipseclab.registry import ExchangeType, IdType


def records(pair):
    names = ("gw1", "gw2")
    return [
        TraceRecord(at, names[side], notice.event, notice.details)
        for at, side, notice in pair.notices
    ]


HANDSHAKE = [
    "I --> R  IKE_SA_INIT request 0",
    "I <-- R  IKE_SA_INIT response 0",
    "I --> R  IKE_AUTH request 1",
    "I <-- R  IKE_AUTH response 1",
]


def test_a_handshake_and_a_liveness_check_by_the_responder():
    pair = make_pair()
    pair.connect()
    pair.do(1, "check_liveness", CONNECTION)
    pair.run(1.0)
    assert ladder(records(pair)) == [
        *HANDSHAKE,
        "I <-- R  INFORMATIONAL request 0",
        "I --> R  INFORMATIONAL response 0",
    ]


def test_fragments_are_numbered_and_a_lost_one_is_crossed():
    names = [Identity(IdType.ID_FQDN, letter * 1800) for letter in (b"a", b"b")]
    pair = make_pair(
        a={"own_id": names[0], "peer_id": names[1]}, b={"own_id": names[1], "peer_id": names[0]}
    )
    pair.fate = lambda sent: () if sent.index == 3 else (0.0,)
    pair.do(0, "initiate", CONNECTION)
    pair.run(6.0)
    assert ladder(records(pair))[2:10] == [
        "I --> R  IKE_AUTH request 1 1/4",
        "I --x R  IKE_AUTH request 1 2/4",
        "I --> R  IKE_AUTH request 1 3/4",
        "I --> R  IKE_AUTH request 1 4/4",
        "I --> R  IKE_AUTH request 1 1/4 (again)",
        "I --> R  IKE_AUTH request 1 2/4 (again)",
        "I --> R  IKE_AUTH request 1 3/4 (again)",
        "I --> R  IKE_AUTH request 1 4/4 (again)",
    ]


def test_a_lost_request_is_crossed_and_sent_again():
    pair = make_pair()
    lost = []

    def lose_first_auth(sent):
        if not lost and sent.is_ike(ExchangeType.IKE_AUTH):
            lost.append(sent)
            return ()
        return (0.0,)

    pair.fate = lose_first_auth
    pair.connect()
    pair.run(10.0)
    lines = ladder(records(pair))
    assert lines == [
        *HANDSHAKE[:2],
        "I --x R  IKE_AUTH request 1",
        "I --> R  IKE_AUTH request 1 (again)",
        HANDSHAKE[3],
    ]


def test_a_lost_response_is_crossed_the_other_way():
    pair = make_pair()
    lost = []

    def lose_first_response(sent):
        if not lost and sent.is_ike(ExchangeType.IKE_AUTH, response=True):
            lost.append(sent)
            return ()
        return (0.0,)

    pair.fate = lose_first_response
    pair.connect()
    pair.run(10.0)
    assert ladder(records(pair))[3:] == [
        "I x-- R  IKE_AUTH response 1",
        "I --> R  IKE_AUTH request 1 (again)",
        "I <-- R  IKE_AUTH response 1 (again)",
    ]


def test_a_duplicate_is_told():
    pair = make_pair()
    pair.fate = lambda sent: (0.0, 0.5) if sent.is_ike(ExchangeType.IKE_AUTH) else (0.0,)
    pair.connect()
    pair.run(5.0)
    lines = ladder(records(pair))
    assert "I --> R  IKE_AUTH request 1 (duplicate)" in lines


def test_an_end_that_is_not_traced_is_the_other_role():
    pair = make_pair()
    pair.connect()
    both = records(pair)
    for name in ("gw1", "gw2"):
        assert ladder(record for record in both if record.node == name) == HANDSHAKE


def test_times_stand_in_front():
    pair = make_pair(delay=0.25)
    pair.connect()
    assert ladder(records(pair), times=True)[:2] == [
        f"    0.000000  {HANDSHAKE[0]}",
        f"    0.250000  {HANDSHAKE[1]}",
    ]


def test_three_nodes_go_by_their_names():
    pair = make_pair()
    pair.connect()
    first = records(pair)
    other = [
        TraceRecord(
            record.t,
            {"gw1": "gw3"}.get(record.node, record.node),
            record.event,
            {**record.fields, "spi_i": "ff" * 8} if "spi_i" in record.fields else record.fields,
        )
        for record in first
    ]
    lines = ladder(sorted([*first, *other], key=lambda record: record.t))
    assert lines[:2] == [
        "gw1 --> gw2  IKE_SA_INIT request 0",
        "gw3 --> gw2  IKE_SA_INIT request 0",
    ]
    assert "gw2 --> gw3  IKE_AUTH response 1" in lines
    assert len(lines) == 8


def test_other_events_are_passed_over_and_nothing_gives_nothing():
    assert ladder([]) == []
    assert ladder([TraceRecord(0.0, "h1", "probe_sent", {"flow": "x", "sequence": 1})]) == []
