"""What RFC 7296 sections 2.5 and 3.10.1 say of payloads and notifications that nobody knows."""

import pytest
from forge import forge, ike_sa, receive
from pair import CONNECTION, make_pair
from post import Post
from transcript import ike_octets, opened, transcript

from ipseclab.registry import ExchangeType, NotifyType, PayloadType
from ipseclab.wire.payloads import NotifyPayload, UnknownPayload

UNKNOWN = PayloadType(200)
UNKNOWN_ERROR, UNKNOWN_STATUS = NotifyType(9000), NotifyType(40_000)


@pytest.fixture
def pair():
    pair = make_pair()
    pair.connect()
    return pair


@pytest.mark.rfc("7296", "4", "MUST", "critical")
@pytest.mark.rfc("7296", "2.5", "MUST", "critical-refused")
@pytest.mark.parametrize("exchange", [ExchangeType.INFORMATIONAL, ExchangeType.CREATE_CHILD_SA])
def test_unknown_critical_payload_inside_sk_is_named_and_the_ike_sa_stands(pair, exchange):
    octets = forge(pair, 0, exchange, UnknownPayload(UNKNOWN, b"?", critical=True))
    (answer,) = receive(pair, 1, octets)
    _, (notify,) = opened(pair, answer)
    assert notify.notify_type == NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
    assert notify.data == bytes([UNKNOWN])
    ike_sa(pair, 0).next_message_id += 1
    pair.agreed()


@pytest.mark.rfc("7296", "4", "MUST", "parse-all")
@pytest.mark.rfc("7296", "2.5", "MUST", "unknown-skipped")
def test_unknown_uncritical_payload_inside_sk_is_skipped(pair):
    octets = forge(pair, 0, ExchangeType.INFORMATIONAL, UnknownPayload(UNKNOWN, b"?"))
    (answer,) = receive(pair, 1, octets)
    assert opened(pair, answer)[1] == ()
    ike_sa(pair, 0).next_message_id += 1
    pair.agreed()


@pytest.mark.rfc("7296", "3.10.1", "MUST", "unknown-ignored")
@pytest.mark.parametrize("kind", [UNKNOWN_STATUS, UNKNOWN_ERROR, NotifyType.INVALID_MESSAGE_ID])
def test_unknown_and_obsolete_notifications_in_a_request_are_ignored(pair, kind):
    octets = forge(pair, 0, ExchangeType.INFORMATIONAL, NotifyPayload(kind, b"data"))
    (answer,) = receive(pair, 1, octets)
    assert opened(pair, answer)[1] == ()
    ike_sa(pair, 0).next_message_id += 1
    pair.agreed()


@pytest.mark.rfc("7296", "3.10.1", "MUST", "unknown-error-response")
def test_unknown_error_in_a_response_fails_its_request_and_nothing_else(pair):
    post = Post(pair)
    pair.do(0, "create_child", CONNECTION)
    request = post.take("a CREATE_CHILD_SA request")
    wrong = forge(
        pair,
        1,
        ExchangeType.CREATE_CHILD_SA,
        NotifyPayload(UNKNOWN_ERROR),
        message_id=request.header.message_id,
        response=True,
    )
    assert receive(pair, 0, wrong) == []
    assert len(pair.a.ike.child_sas) == 1
    ike_sa(pair, 1).expected_message_id += 1
    pair.agreed()


@pytest.mark.rfc("7296", "3.10.1", "MUST", "unknown-ignored")
def test_unknown_status_in_a_response_is_ignored(pair):
    post = Post(pair)
    pair.do(0, "check_liveness", CONNECTION)
    request = post.take("a INFORMATIONAL request")
    answer = forge(
        pair,
        1,
        ExchangeType.INFORMATIONAL,
        NotifyPayload(UNKNOWN_STATUS, b"data"),
        message_id=request.header.message_id,
        response=True,
    )
    receive(pair, 0, answer)
    assert len(pair.events("liveness_confirmed", 0)) == 1


def test_a_higher_minor_version_in_the_header_is_ignored_but_covered_by_the_icv(pair):
    pair.fate = lambda sent: ()
    pair.do(0, "check_liveness", CONNECTION)
    octets = bytearray(ike_octets(pair.sent[-1]))
    octets[17] |= 0x0F
    assert receive(pair, 1, bytes(octets)) == []
    assert pair.b.counters["ike.bad_icv"] == 1


@pytest.mark.rfc("7296", "2.3", "MUST NOT", "acknowledge-invalid-id")
def test_a_message_id_out_of_the_window_is_dropped_without_invalid_message_id(pair):
    """Section 2.3: the notification is optional, and answering costs more than it tells."""
    before = len(transcript(pair))
    octets = forge(pair, 0, ExchangeType.INFORMATIONAL, message_id=77)
    assert receive(pair, 1, octets) == []
    assert len(transcript(pair)) == before
    pair.agreed()
