"""IKE_SA_INIT: algorithms, cookies, other groups, what is refused and what ignored."""

import pytest
from forge import receive
from pair import ADDRESSES, CONNECTION, Pair, gateway_config, make_pair
from pair import connection as connection_of
from transcript import ike_messages, ike_octets, opened, transcript

from ipseclab.ike.config import IkeLimits, Retransmission
from ipseclab.ike.proposals import parse_ike_proposal
from ipseclab.outputs import UdpEndpoint, UdpPath
from ipseclab.registry import ExchangeType, KeMethod, NotifyType, PayloadType
from ipseclab.wire.message import Message, decode_message
from ipseclab.wire.payloads import (
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
    UnknownPayload,
)

KE_METHODS = ("x25519", "ecp256", "ecp384", "ecp521", "modp2048", "modp3072", "modp4096")
CIPHERS = (
    "aes128gcm16-prfsha256",
    "aes192gcm16-prfsha384",
    "aes256gcm16-prfsha512",
    "chacha20poly1305-prfsha256",
    "aes128-sha256",
    "aes192-sha384",
    "aes256-sha512",
)
A_TO_B = UdpPath(UdpEndpoint(ADDRESSES[1], 500), UdpEndpoint(ADDRESSES[0], 500))
"""As b sees it."""


def with_limits(limits: IkeLimits, **changes: dict) -> Pair:
    """A pair whose responder has those limits."""
    sides = [connection_of(i, **changes.get("ab"[i], {})) for i in (0, 1)]
    return Pair((gateway_config(sides[0]), gateway_config(sides[1], limits=limits)))


def ike_with(*texts: str) -> dict:
    return {"ike_proposals": tuple(parse_ike_proposal(text) for text in texts)}


ASK_COOKIES = IkeLimits(cookie_threshold=0)
ECP_BEFORE_X25519 = ike_with("aes128gcm16-prfsha256-ecp256-x25519")
ONLY_X25519 = ike_with("aes128gcm16-prfsha256-x25519")


# MODP is slow: once each is enough.
SUITES = [(c, m) for c in CIPHERS for m in KE_METHODS if c == CIPHERS[0] or "modp" not in m]


SUITES += [
    ("aes128ccm8-prfsha1", "x448"),
    ("aes192ccm12-prfsha256", "ecp384bp"),
    ("aes256ccm16-prfaesxcbc", "ecp256bp"),
    ("aes128gcm16-prfaescmac", "mlkem1024"),
    ("aes128-aesxcbc", "mlkem512"),
    ("aes128-aescmac", "ecp512bp"),
    ("aes128-sha1", "modp1536"),
]


@pytest.mark.parametrize(("cipher", "method"), SUITES)
def test_every_key_exchange_with_every_cipher(cipher, method):
    pair = make_pair(both=ike_with(f"{cipher}-{method}"))
    pair.connect()
    pair.agreed()
    (notice,) = pair.events("ike_established", 0)
    assert method in str(notice.details["proposal"])


@pytest.mark.rfc("7296", "4", "MUST", "four-messages")
@pytest.mark.rfc("7296", "2.5", "SHOULD", "order-sent")
def test_four_messages_make_the_ike_sa_and_the_child_sa():
    pair = make_pair()
    pair.connect()
    assert transcript(pair) == [
        "a --> IKE_SA_INIT: SA, KE, Ni",
        "b <-- IKE_SA_INIT: SA, KE, Nr",
        "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr}",
        "b <-- IKE_AUTH: SK {IDr, AUTH, SA, TSi, TSr}",
    ]
    assert pair.now == 1.0
    ready = [at for at, side, notice in pair.notices if notice.event == "child_ready"]
    assert ready == pytest.approx([0.03, 0.04])  # 1.5 and 2 round trips of 20 ms


@pytest.mark.rfc("7296", "3.3.4", "MUST", "suites-by-policy")
def test_the_responder_prefers_its_own_first_proposal():
    a = ike_with("aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha256-x25519")
    b = ike_with("aes256gcm16-prfsha256-x25519", "aes128gcm16-prfsha256-x25519")
    pair = make_pair(a=a, b=b)
    pair.connect()
    (notice,) = pair.events("ike_established", 1)
    assert notice.details["proposal"] == "aes256gcm16-prfsha256-x25519"


def test_cookie_is_asked_for_and_brought_without_state_at_the_responder():
    pair = with_limits(ASK_COOKIES)
    pair.do(0, "initiate", CONNECTION)
    pair.run(0.015)
    assert pair.b.ike.half_open == 0
    assert pair.b.ike.table_sizes["ike_sas"] == 0
    pair.run(1.0)
    assert transcript(pair)[:4] == [
        "a --> IKE_SA_INIT: SA, KE, Ni",
        "b <-- IKE_SA_INIT: N(COOKIE)",
        "a --> IKE_SA_INIT: N(COOKIE), SA, KE, Ni",
        "b <-- IKE_SA_INIT: SA, KE, Nr",
    ]
    pair.agreed()


@pytest.mark.rfc("7296", "2.6", "MUST", "cookie-first")
def test_cookie_comes_back_first_and_unchanged_with_the_rest_of_the_request():
    pair = with_limits(ASK_COOKIES)
    pair.connect()
    first, asked, second = (opened(pair, sent)[1] for sent in ike_messages(pair)[:3])
    assert second == (asked[0], *first)


@pytest.mark.rfc("7296", "2.6", "MUST", "wrong-cookie")
def test_wrong_cookie_is_answered_with_the_right_one():
    pair = with_limits(ASK_COOKIES)
    pair.do(0, "initiate", CONNECTION)
    request = decode_message(ike_octets(pair.sent[0]))
    bad = Message(
        request.spi_i,
        request.spi_r,
        request.exchange,
        True,
        False,
        0,
        (NotifyPayload(NotifyType.COOKIE, bytes(32)), *request.payloads),
    )
    pair.do(1, "receive_datagram", A_TO_B, bad.encode())
    assert transcript(pair)[-1] == "b <-- IKE_SA_INIT: N(COOKIE)"
    assert pair.b.ike.half_open == 0
    pair.run(1.0)
    pair.agreed()


@pytest.mark.rfc("7296", "2.6", "MAY", "old-secret")
def test_cookie_of_the_secret_before_is_still_good():
    pair = with_limits(ASK_COOKIES)
    pair.connect()
    pair.run(119.5)  # the first secret was used at 0.01 s, the second comes a minute later
    pair.do(0, "delete_ike", CONNECTION)
    pair.run(1.0)
    pair.connect()
    pair.agreed()


@pytest.mark.rfc("7296", "3.3.6", "SHOULD", "wanted-group")
@pytest.mark.rfc("7296", "3.3.6", "SHOULD", "all-groups")
@pytest.mark.rfc("7296", "1.2", "MUST", "retry-group")
@pytest.mark.rfc("7296", "1.2", "MUST", "propose-all-again")
def test_another_group_is_asked_for_and_taken():
    pair = make_pair(a=ECP_BEFORE_X25519, b=ONLY_X25519)
    pair.connect()
    assert transcript(pair)[:4] == [
        "a --> IKE_SA_INIT: SA, KE, Ni",
        "b <-- IKE_SA_INIT: N(INVALID_KE_PAYLOAD)",
        "a --> IKE_SA_INIT: SA, KE, Ni",
        "b <-- IKE_SA_INIT: SA, KE, Nr",
    ]
    requests = [opened(pair, sent)[0] for sent in ike_messages(pair)[0:3:2]]
    assert [m.find(KePayload).method for m in requests] == [KeMethod.ECP_256, KeMethod.CURVE25519]
    assert requests[0].find(NoncePayload) == requests[1].find(NoncePayload)
    assert requests[0].find(SaPayload) == requests[1].find(SaPayload)
    pair.agreed()


@pytest.mark.rfc("7296", "2.6.1", "SHOULD", "keep-cookie")
def test_cookie_first_then_another_group_keeps_the_cookie():
    pair = with_limits(ASK_COOKIES, a=ECP_BEFORE_X25519, b=ONLY_X25519)
    pair.connect()
    assert transcript(pair)[:6] == [
        "a --> IKE_SA_INIT: SA, KE, Ni",
        "b <-- IKE_SA_INIT: N(COOKIE)",
        "a --> IKE_SA_INIT: N(COOKIE), SA, KE, Ni",
        "b <-- IKE_SA_INIT: N(INVALID_KE_PAYLOAD)",
        "a --> IKE_SA_INIT: N(COOKIE), SA, KE, Ni",
        "b <-- IKE_SA_INIT: SA, KE, Nr",
    ]
    pair.agreed()


def test_another_group_first_then_a_cookie():
    """A responder that checks the group before it asks for a cookie (section 2.6.1)."""
    pair = with_limits(ASK_COOKIES, a=ECP_BEFORE_X25519, b=ONLY_X25519)
    pair.fate = lambda sent: ()
    pair.do(0, "initiate", CONNECTION)
    request = decode_message(ike_octets(pair.sent[0]))
    wanted = NotifyPayload(
        NotifyType.INVALID_KE_PAYLOAD, int(KeMethod.CURVE25519).to_bytes(2, "big")
    )
    refusal = Message(request.spi_i, bytes(8), ExchangeType.IKE_SA_INIT, False, True, 0, (wanted,))
    pair.fate = lambda sent: (0.0,)
    back = UdpPath(UdpEndpoint(ADDRESSES[0], 500), UdpEndpoint(ADDRESSES[1], 500))
    pair.do(0, "receive_datagram", back, refusal.encode())
    pair.run(1.0)
    assert transcript(pair)[1:5] == [
        "a --> IKE_SA_INIT: SA, KE, Ni",
        "b <-- IKE_SA_INIT: N(COOKIE)",
        "a --> IKE_SA_INIT: N(COOKIE), SA, KE, Ni",
        "b <-- IKE_SA_INIT: SA, KE, Nr",
    ]
    pair.agreed()


def test_group_that_was_not_offered_is_ignored_as_forged():
    pair = make_pair(a=ONLY_X25519)
    pair.do(0, "initiate", CONNECTION)
    request = decode_message(ike_octets(pair.sent[0]))
    wanted = NotifyPayload(
        NotifyType.INVALID_KE_PAYLOAD, int(KeMethod.MODP_2048).to_bytes(2, "big")
    )
    forged = Message(request.spi_i, bytes(8), ExchangeType.IKE_SA_INIT, False, True, 0, (wanted,))
    back = UdpPath(UdpEndpoint(ADDRESSES[0], 500), UdpEndpoint(ADDRESSES[1], 500))
    pair.do(0, "receive_datagram", back, forged.encode())
    assert pair.a.counters["ike.init_refused"] == 1
    pair.run(1.0)
    pair.agreed()


@pytest.mark.parametrize("size", [0, 1, 3, 4_000, 60_000])
def test_group_of_another_size_than_two_octets_is_ignored_as_forged(size):
    """Python refuses to write a number of more than 4,300 digits."""
    pair = make_pair(a=ONLY_X25519)
    pair.do(0, "initiate", CONNECTION)
    request = decode_message(ike_octets(pair.sent[0]))
    wanted = NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, b"\xff" * size)
    forged = Message(request.spi_i, bytes(8), ExchangeType.IKE_SA_INIT, False, True, 0, (wanted,))
    back = UdpPath(UdpEndpoint(ADDRESSES[0], 500), UdpEndpoint(ADDRESSES[1], 500))
    pair.do(0, "receive_datagram", back, forged.encode())
    assert pair.a.counters["ike.init_refused"] == 1
    pair.run(1.0)
    pair.agreed()


@pytest.mark.rfc("7296", "2.4", "MUST", "limit-unprotected")
def test_forged_cookies_do_not_keep_the_initiator_busy_for_ever():
    pair = make_pair()
    pair.fate = lambda sent: ()
    pair.do(0, "initiate", CONNECTION)
    spi_i = decode_message(ike_octets(pair.sent[0])).spi_i
    back = UdpPath(UdpEndpoint(ADDRESSES[0], 500), UdpEndpoint(ADDRESSES[1], 500))
    for number in range(20):
        cookie = NotifyPayload(NotifyType.COOKIE, bytes([number]) * 8)
        forged = Message(spi_i, bytes(8), ExchangeType.IKE_SA_INIT, False, True, 0, (cookie,))
        pair.do(0, "receive_datagram", back, forged.encode())
    assert len(pair.sent) == 6
    assert pair.events("ike_failed", 0)


def test_no_common_proposal_is_not_believed_at_once_and_is_the_reason_in_the_end():
    b = {**ike_with("aes256gcm16-prfsha384-ecp384")}
    quick = {"retransmission": Retransmission(timeout=1.0, tries=2)}
    pair = make_pair(a=quick, b={**b, **quick})
    pair.connect()
    assert [notice.details["reason"] for notice in pair.events("ike_init_refused", 0)] == [
        "NO_PROPOSAL_CHOSEN"
    ]
    assert len(pair.a.ike.ike_sas) == 1
    pair.run(100.0)
    assert [notice.details["reason"] for notice in pair.events("ike_failed", 0)] == [
        "NO_PROPOSAL_CHOSEN"
    ]
    assert pair.a.ike.table_sizes["ike_sas"] == pair.b.ike.table_sizes["ike_sas"] == 0


@pytest.mark.rfc("7296", "2.4", "MUST NOT", "dead-by-rumour")
def test_forged_refusal_does_not_stop_the_handshake():
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    spi_i = decode_message(ike_octets(pair.sent[0])).spi_i
    refusal = NotifyPayload(NotifyType.NO_PROPOSAL_CHOSEN)
    forged = Message(spi_i, bytes(8), ExchangeType.IKE_SA_INIT, False, True, 0, (refusal,))
    back = UdpPath(UdpEndpoint(ADDRESSES[0], 500), UdpEndpoint(ADDRESSES[1], 500))
    pair.do(0, "receive_datagram", back, forged.encode())
    pair.run(1.0)
    pair.agreed()


def test_response_from_another_address_is_ignored():
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    pair.run(0.015)  # b has answered
    response = ike_octets(pair.sent[-1])
    elsewhere = UdpPath(UdpEndpoint(ADDRESSES[0], 500), UdpEndpoint("203.0.113.66", 500))
    pair.do(0, "receive_datagram", elsewhere, response)
    assert pair.a.counters["ike.unexpected_response"] == 1
    pair.run(1.0)
    pair.agreed()


def test_repeated_request_gets_the_same_response_and_makes_no_second_ike_sa():
    pair = make_pair()
    pair.connect()
    request, response = pair.sent[0], pair.sent[1]
    pair.do(1, "receive_datagram", A_TO_B, ike_octets(request))
    assert ike_octets(pair.sent[-1]) == ike_octets(response)
    assert pair.b.ike.table_sizes["ike_sas"] == 1
    pair.agreed()


@pytest.mark.rfc("7296", "3.1", "MUST NOT", "spi-i-zero")
@pytest.mark.rfc("7296", "3.1", "MUST", "spi-r-zero")
def test_requests_that_no_initiator_sends_are_dropped():
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    good = ike_octets(pair.sent[0])
    spi_zero = bytes(8) + good[8:]
    spi_r_set = good[:8] + bytes([1] * 8) + good[16:]
    not_initiator = good[:19] + bytes([0]) + good[20:]
    message_id = good[:20] + bytes([0, 0, 0, 7]) + good[24:]
    for octets in (spi_zero, spi_r_set, not_initiator, message_id):
        before = len(pair.sent)
        pair.do(1, "receive_datagram", A_TO_B, octets)
        assert len(pair.sent) == before
    assert pair.b.ike.table_sizes["ike_sas"] == 0
    assert pair.b.counters["ike.init_spi"] == 2
    assert pair.b.counters["ike.init_flags"] == 2


@pytest.mark.rfc("7296", "2.5", "SHOULD", "tell-major")
def test_higher_major_version_is_told_ours_and_a_lower_one_nothing():
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    good = ike_octets(pair.sent[0])
    pair.do(1, "receive_datagram", A_TO_B, good[:17] + bytes([0x30]) + good[18:])
    assert transcript(pair)[-1] == "b <-- IKE_SA_INIT: N(INVALID_MAJOR_VERSION)"
    before = len(pair.sent)
    pair.do(1, "receive_datagram", A_TO_B, good[:17] + bytes([0x10]) + good[18:])
    assert len(pair.sent) == before


@pytest.mark.rfc("7296", "2.5", "MUST", "minor-ignored")
def test_higher_minor_version_and_reserved_flags_are_ignored():
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    good = ike_octets(pair.sent[0])
    odd = good[:17] + bytes([0x27, good[18], good[19] | 0xC7]) + good[20:]
    pair.do(1, "receive_datagram", A_TO_B, odd)
    assert transcript(pair)[-1] == "b <-- IKE_SA_INIT: SA, KE, Nr"


@pytest.mark.rfc("7296", "2.5", "MUST", "unknown-skipped")
@pytest.mark.rfc("7296", "2.5", "MUST", "critical-refused")
def test_unknown_critical_payload_is_named_and_an_uncritical_one_ignored():
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    request = decode_message(ike_octets(pair.sent[0]))
    kind = PayloadType(200)
    for critical, answer in (
        (True, "b <-- IKE_SA_INIT: N(UNSUPPORTED_CRITICAL_PAYLOAD)"),
        (False, "b <-- IKE_SA_INIT: SA, KE, Nr"),
    ):
        odd = Message(
            request.spi_i,
            request.spi_r,
            request.exchange,
            True,
            False,
            0,
            (*request.payloads, UnknownPayload(kind, b"?", critical)),
        )
        pair.do(1, "receive_datagram", A_TO_B, odd.encode())
        assert transcript(pair)[-1] == answer
    refusal = next(s for s in pair.sent[1:] if s.sender == 1)
    assert opened(pair, refusal)[1][0].data == bytes([200])


@pytest.mark.rfc("7296", "3.10.1", "MUST", "status-ignored")
def test_reserved_octets_and_unknown_notifies_are_ignored():
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    request = decode_message(ike_octets(pair.sent[0]))
    notifies = (NotifyPayload(NotifyType(40_000), b"status"), NotifyPayload(NotifyType(9000)))
    odd = Message(
        request.spi_i,
        request.spi_r,
        request.exchange,
        True,
        False,
        0,
        (*notifies, *request.payloads),
    )
    pair.do(1, "receive_datagram", A_TO_B, odd.encode())
    assert transcript(pair)[-1] == "b <-- IKE_SA_INIT: SA, KE, Nr"


def test_address_without_a_connection_is_refused():
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    stranger = UdpPath(A_TO_B.local, UdpEndpoint("203.0.113.66", 500))
    pair.do(1, "receive_datagram", stranger, ike_octets(pair.sent[0]))
    assert transcript(pair)[-1] == "b <-- IKE_SA_INIT: N(NO_PROPOSAL_CHOSEN)"
    assert pair.b.ike.half_open == 0


def test_half_open_ike_sa_is_forgotten_after_its_time():
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    pair.fate = lambda sent: (0.0,) if sent.is_ike(ExchangeType.IKE_SA_INIT) else ()
    # The default schedule is given up after 165 s, and each of two exchanges may need as long.
    pair.run(330.0)
    assert pair.b.ike.half_open == 1
    pair.run(1.0)
    assert pair.b.ike.half_open == 0
    assert pair.b.ike.table_sizes["ike_sas"] == 0
    pair.run(300.0)
    assert pair.a.ike.table_sizes["ike_sas"] == 0


def test_responder_is_as_patient_as_the_default_schedule():
    """Four lost IKE_AUTH requests: the fifth comes after 47.5 s."""
    pair, lost = make_pair(), []

    def lose_four(sent):
        if sent.is_ike(ExchangeType.IKE_AUTH) and len(lost) < 4:
            lost.append(sent)
            return ()
        return (0.0,)

    pair.fate = lose_four
    pair.do(0, "initiate", CONNECTION)
    pair.run(48.0)
    assert len(lost) == 4
    pair.agreed()


def test_half_open_ones_give_way_to_others_when_they_are_old():
    pair = with_limits(IkeLimits(half_open=1, cookie_threshold=100))
    other = make_pair(seed=99)
    other.do(0, "initiate", CONNECTION)
    stranger = ike_octets(other.sent[0])
    pair.b.receive_datagram(A_TO_B, stranger, 0.0)
    pair.do(0, "initiate", CONNECTION)
    pair.run(29.0)  # sent again three times in vain
    assert pair.b.counters["ike.too_many"] == 4
    pair.run(20.0)
    pair.agreed()


def test_small_ke_of_the_right_group_is_refused_without_state():
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    request = decode_message(ike_octets(pair.sent[0]))
    for data in (b"", bytes(31), bytes(32), bytes(33)):
        payloads = [
            KePayload(KeMethod.CURVE25519, data) if isinstance(p, KePayload) else p
            for p in request.payloads
        ]
        bad = Message(
            request.spi_i, request.spi_r, request.exchange, True, False, 0, tuple(payloads)
        )
        pair.do(1, "receive_datagram", A_TO_B, bad.encode())
        assert transcript(pair)[-1] == "b <-- IKE_SA_INIT: N(INVALID_SYNTAX)"
    assert pair.b.ike.table_sizes["ike_sas"] == 0


@pytest.mark.parametrize("forged_first", [True, False])
def test_forged_variant_of_a_request_does_not_keep_the_initiator_out(forged_first):
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    request = pair.sent[0].item.data
    forged = request[:-1] + bytes([request[-1] ^ 1])
    pair.fate = lambda sent: ()
    if not forged_first:
        receive(pair, 1, request)
    receive(pair, 1, forged)
    assert pair.b.ike.half_open == 1 + (not forged_first)
    pair.fate = lambda sent: (0.0,)
    pair.run(10.0)  # the request is sent again
    assert pair.ike_spis(0) <= pair.ike_spis(1)
    assert len(pair.ike_spis(0)) == 1
    pair.run(400.0)
    pair.agreed()
