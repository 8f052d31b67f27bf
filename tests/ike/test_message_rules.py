"""Rules of RFC 7296 that hold for every message: sizes, headers, flags, order, cookies, nonces."""

from dataclasses import replace
from random import Random

import pytest
from faulty import fault, suffer
from forge import forge, ike_sa, path_to, receive
from pair import CONNECTION, Pair, connection, gateway_config, make_pair
from post import Post
from transcript import ike_messages, ike_octets, opened, transcript, unsealed

from ipseclab.crypto.prf import PRFS
from ipseclab.gateway import Gateway
from ipseclab.ike.config import Identity, IkeLimits, Retransmission
from ipseclab.ike.cookies import MAX_COOKIE_SIZE
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.outputs import UdpEndpoint
from ipseclab.registry import ExchangeType, IdType, KeMethod, NotifyType, PayloadType, ProtocolId
from ipseclab.wire.message import Message, decode_message
from ipseclab.wire.payloads import (
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
    SkPayload,
    VendorPayload,
)
from ipseclab.wire.selector import TrafficSelector

ASK_COOKIES = IkeLimits(cookie_threshold=0)
ECP_FIRST = {"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-ecp256-x25519"),)}
X25519 = {"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-x25519"),)}
EXCHANGES = ("rekey_child", "create_child", "rekey_ike", "check_liveness", "delete_child")


def limited(limits: IkeLimits, a: dict | None = None, b: dict | None = None) -> Pair:
    """A pair whose responder has those limits."""
    sides = [connection(side, **(own or {})) for side, own in enumerate((a, b))]
    configs = gateway_config(sides[0], name="a"), gateway_config(sides[1], limits=limits, name="b")
    return Pair(configs)


def busy(**options: object) -> Pair:
    """A pair that has had every exchange by either end, with a cookie asked for in the first."""
    pair = limited(ASK_COOKIES, **options)
    pair.connect()
    for side in (0, 1):
        for method in EXCHANGES:
            pair.do(side, method, CONNECTION)
            pair.run(3.0)
    return pair


def chain(kind: int, octets: bytes) -> list[tuple[int, int, bytes]]:
    """(type, flags, body) of each payload."""
    found, at = [], 0
    while kind:
        size = int.from_bytes(octets[at + 2 : at + 4], "big")
        found.append((kind, octets[at + 1], octets[at + 4 : at + size]))
        kind, at = octets[at] if found[-1][0] != PayloadType.SK else 0, at + size
    return found


def chains(pair: Pair) -> list[list[tuple[int, int, bytes]]]:
    """The payloads of each message: those in the clear, and those under SK."""
    found = []
    for sent in ike_messages(pair):
        octets = ike_octets(sent)
        found.append(chain(octets[16], octets[28:]))
        if octets[16] == PayloadType.SK:
            found.append(chain(*unsealed(pair, sent)))
    return found


# Sizes (section 2).


@pytest.mark.rfc("7296", "2", "MUST", "size-1280")
@pytest.mark.rfc("7296", "2", "SHOULD", "size-3000")
@pytest.mark.parametrize("size", [1280, 3000])
def test_long_messages_in_one_piece_are_sent_and_taken(size):
    networks = [
        tuple(TrafficSelector.of_network(f"10.{side}.0.{host}/32") for host in range(2, 62))
        for side in (1, 2)
    ]
    pair = make_pair(
        both={"fragmentation": False},
        a={"own_ts": networks[0], "peer_ts": networks[1]},
        b={"own_ts": networks[1], "peer_ts": networks[0]},
    )
    pair.connect()
    for side in (0, 1):
        longest = max(len(s.item.data) for s in ike_messages(pair) if s.sender == side)
        assert longest > 1280
    assert pair.spis(0) == pair.spis(1) != set()
    long = forge(pair, 0, ExchangeType.INFORMATIONAL, VendorPayload(bytes(size)))
    assert len(long) > size
    (answer,) = receive(pair, 1, long)
    assert opened(pair, answer)[1] == ()


# Repeats (section 2.1).


@pytest.mark.rfc("7296", "2.1", "MUST NOT", "response-unasked")
def test_a_response_is_never_sent_again_unasked():
    pair = make_pair(a={"retransmission": Retransmission(timeout=400.0, tries=1)})
    pair.connect()
    pair.sent.clear()
    pair.fate = lambda sent: () if sent.sender == 1 else (0.0,)
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(300.0)
    assert [(s.sender, s.header.response) for s in ike_messages(pair)] == [(0, False), (1, True)]


# Headers (sections 2.5, 3.1 and 3.2).


@pytest.mark.rfc("7296", "3.1", "MUST", "spi-r-zero")
@pytest.mark.rfc("7296", "3.1", "MUST", "major-2")
@pytest.mark.rfc("7296", "3.1", "MUST", "minor-0")
@pytest.mark.rfc("7296", "3.1", "MUST", "x-bits")
@pytest.mark.rfc("7296", "3.1", "MUST", "r-bit")
@pytest.mark.rfc("7296", "3.1", "MUST", "i-bit")
@pytest.mark.rfc("7296", "2.5", "MUST", "version-of-request")
def test_the_header_of_every_message():
    pair = busy()
    makers = {
        notice.details["spi_i"]: side
        for _, side, notice in pair.notices
        if notice.details.get("role") == "initiator" and notice.event.startswith("ike_")
    }
    assert set(makers.values()) == {0, 1}
    for request, response in zip(*[iter(ike_messages(pair))] * 2, strict=True):
        assert (request.sender, request.header.response) == (1 - response.sender, False)
        assert response.header.response
        assert request.header.message_id == response.header.message_id
        for sent in (request, response):
            octets, header = ike_octets(sent), sent.header
            assert octets[17] == 0x20  # 2.0
            assert octets[19] & ~0x28 == 0  # neither V nor a reserved bit
            assert header.initiator == (makers[header.spi_i.hex()] == sent.sender)
            assert any(header.spi_i)
    requests = [sent.header for sent in ike_messages(pair)[::2]]
    inits = [header for header in requests if header.exchange == ExchangeType.IKE_SA_INIT]
    assert len(inits) == 2
    assert {header.spi_r for header in inits} == {bytes(8)}
    assert all(any(header.spi_r) for header in requests[2:])


@pytest.mark.rfc("7296", "3.2", "MUST", "critical-0")
@pytest.mark.rfc("7296", "3.2", "MUST", "critical-defined")
@pytest.mark.rfc("7296", "3.2", "MUST", "reserved")
@pytest.mark.rfc("7296", "3.3.1", "MUST", "reserved")
@pytest.mark.rfc("7296", "3.3.2", "MUST", "reserved")
@pytest.mark.rfc("7296", "3.5", "MUST", "reserved")
@pytest.mark.rfc("7296", "3.13", "MUST", "reserved")
@pytest.mark.rfc("7296", "2.5", "MUST NOT", "critical-response")
def test_no_payload_of_ours_is_critical_and_reserved_bits_are_zero():
    pair = busy()
    seen = set()
    for payloads in chains(pair):
        for kind, flags, body in payloads:
            seen.add(kind)
            assert flags == 0
            match kind:
                case PayloadType.KE:
                    assert body[2:4] == bytes(2)
                case PayloadType.IDI | PayloadType.IDR | PayloadType.AUTH:
                    assert body[1:4] == bytes(3)
                case PayloadType.TSI | PayloadType.TSR:
                    assert body[1:4] == bytes(3)
                case PayloadType.SA:
                    assert body[1] == 0  # of the first proposal
                    assert body[9 + body[6]] == 0  # of its first transform
    assert {PayloadType.SA, PayloadType.KE, PayloadType.NOTIFY, PayloadType.DELETE} <= seen


@pytest.mark.rfc("7296", "3.2", "MUST", "critical-known")
def test_known_payloads_are_read_whether_critical_or_not():
    pair = make_pair()
    pair.fate = lambda sent: ()
    pair.do(0, "initiate", CONNECTION)
    octets = bytearray(ike_octets(pair.sent[0]))
    at, kind = 28, octets[16]
    while kind:
        octets[at + 1] |= 0x80
        kind, at = octets[at], at + int.from_bytes(octets[at + 2 : at + 4], "big")
    receive(pair, 1, bytes(octets))
    assert transcript(pair)[-1] == "b <-- IKE_SA_INIT: SA, KE, Nr"


@pytest.mark.rfc("7296", "2.5", "MUST NOT", "order-refused")
def test_payloads_in_the_opposite_order_are_accepted():
    pair = make_pair(both={"esp_proposals": (parse_esp_proposal("aes128gcm16-x25519"),)})
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    request = decode_message(ike_octets(post.take("a IKE_SA_INIT request")))
    turned = replace(request, payloads=request.payloads[::-1]).encode()
    ike_sa(pair, 0).init_request = turned  # what AUTH covers
    receive(pair, 1, turned)
    response = decode_message(ike_octets(post.take("b IKE_SA_INIT response")))
    answer = replace(response, payloads=response.payloads[::-1]).encode()
    ike_sa(pair, 1).init_response = answer
    receive(pair, 0, answer)
    for exchange in ("IKE_AUTH", "CREATE_CHILD_SA"):
        if exchange == "CREATE_CHILD_SA":
            pair.do(0, "create_child", CONNECTION)
        kind = ExchangeType[exchange]
        sent = post.take(f"a {exchange} request")
        number, payloads = sent.header.message_id, opened(pair, sent)[1]
        receive(pair, 1, forge(pair, 0, kind, *payloads[::-1], message_id=number))
        payloads = opened(pair, post.take(f"b {exchange} response"))[1]
        answer = forge(pair, 1, kind, *payloads[::-1], message_id=number, response=True)
        receive(pair, 0, answer)
    assert len(pair.spis(0)) == 2
    assert pair.spis(0) == pair.spis(1)


@pytest.mark.rfc("7296", "3.1", "MUST NOT", "sk-nested")
@pytest.mark.parametrize("response", [False, True])
def test_an_encrypted_payload_inside_another_is_malformed(response):
    pair = make_pair()
    pair.connect()
    inner = SkPayload(PayloadType.NONE, bytes(40))
    if response:
        pair.fate = lambda sent: ()
        pair.do(0, "check_liveness", CONNECTION)
        kind = ExchangeType.INFORMATIONAL
        assert not receive(pair, 0, forge(pair, 1, kind, inner, message_id=2, response=True))
        assert pair.events("exchange_failed", 0)
        return
    (answer,) = receive(pair, 1, forge(pair, 0, ExchangeType.INFORMATIONAL, inner))
    assert opened(pair, answer)[1][0].notify_type == NotifyType.INVALID_SYNTAX


@pytest.mark.rfc("7296", "3.12", "MUST", "unknown-vendor")
def test_vendor_ids_that_nobody_knows_are_ignored():
    pair = make_pair()
    pair.fate = lambda sent: ()
    pair.do(0, "initiate", CONNECTION)
    request = decode_message(ike_octets(pair.sent[0]))
    vendors = (VendorPayload(b"somebody"), VendorPayload(b"somebody else"))
    receive(pair, 1, replace(request, payloads=(*vendors, *request.payloads)).encode())
    assert transcript(pair)[-1] == "b <-- IKE_SA_INIT: SA, KE, Nr"


@pytest.mark.rfc("7296", "3.10", "MUST", "no-protocol")
@pytest.mark.rfc("7296", "3.10", "MUST", "ike-no-spi")
def test_notifications_that_name_no_sa_name_no_protocol_either():
    pair = busy()
    notifies = [
        p for s in ike_messages(pair) for p in opened(pair, s)[1] if isinstance(p, NotifyPayload)
    ]
    assert len(notifies) > 10
    for notify in notifies:
        named = notify.notify_type == NotifyType.REKEY_SA
        assert (notify.protocol == ProtocolId.ESP, len(notify.spi)) == (named, 4 * named)
        assert notify.protocol in (ProtocolId.ESP, 0)


@pytest.mark.rfc("7296", "3.10", "MUST", "no-protocol")
def test_a_protocol_beside_an_empty_spi_is_ignored():
    pair = limited(ASK_COOKIES)
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request")
    answer = decode_message(ike_octets(post.take("b IKE_SA_INIT response")))
    (cookie,) = answer.payloads
    odd = NotifyPayload(NotifyType.COOKIE, cookie.data, ProtocolId.IKE)
    receive(pair, 0, replace(answer, payloads=(odd,)).encode())
    post.open(1.0)
    pair.agreed()


@pytest.mark.rfc("7296", "3.5", "MUST NOT", "fqdn-terminated")
@pytest.mark.rfc("7296", "3.5", "MUST NOT", "mail-terminated")
def test_identities_are_sent_as_they_are():
    pair = make_pair()
    pair.connect()
    payloads = [p for s in ike_messages(pair)[2:] for p in opened(pair, s)[1]]
    sent = [p.data for p in payloads if isinstance(p, IdiPayload | IdrPayload)]
    assert sent == [b"a.example.org", b"b.example.org", b"b.example.org"]


IDENTITIES = [
    Identity(IdType.ID_IPV4_ADDR, bytes([192, 0, 2, 1])),
    Identity(IdType.ID_FQDN, b"gw.example.org"),
    Identity(IdType.ID_RFC822_ADDR, b"jsmith@example.org"),
    Identity(IdType.ID_IPV6_ADDR, bytes.fromhex("20010db8") + bytes(12)),
    Identity(IdType.ID_DER_ASN1_DN, b"0\x000"),
    Identity(IdType.ID_KEY_ID, b"\0any octets\xff"),
]


@pytest.mark.rfc("7296", "3.5", "MUST", "id-types")
@pytest.mark.rfc("7296", "3.5", "SHOULD", "all-id-types")
@pytest.mark.rfc("7296", "3.5", "MUST", "ipv6-id")
@pytest.mark.rfc("7296", "4", "MUST", "accept-secret")
@pytest.mark.parametrize("identity", IDENTITIES, ids=lambda identity: identity.id_type.name)
def test_every_type_of_identity_is_sent_and_accepted(identity):
    pair = make_pair(a={"own_id": identity}, b={"peer_id": identity})
    pair.connect()
    sent = opened(pair, ike_messages(pair)[2])[1][0]
    assert (sent.id_type, sent.data) == (identity.id_type, identity.data)
    pair.agreed()


# SPIs (section 2.6).


class Fixed(Random):
    """Gives those octets first."""

    def __init__(self, *octets: bytes) -> None:
        super().__init__(1)
        self.first = list(octets)

    def randbytes(self, n: int) -> bytes:
        if n == 8 and self.first:
            return self.first.pop(0)
        return super().randbytes(n)


@pytest.mark.rfc("7296", "3.1", "MUST NOT", "spi-i-zero")
@pytest.mark.rfc("7296", "2.6", "MUST", "unique-spi")
def test_an_ike_spi_is_neither_zero_nor_taken():
    taken = b"is taken"
    rng = Fixed(bytes(8), taken, taken, bytes(8), b"the next")
    pair = make_pair()
    pair.gateways[0] = Gateway(pair.configs[0], rng=rng)
    pair.connect()
    pair.do(0, "rekey_ike", CONNECTION)
    pair.run(1.0)
    assert [key.spi_i for key in pair.keys if hasattr(key, "spi_i")][:1] == [taken]
    assert ike_sa(pair, 0).spi_i == b"the next"
    pair.agreed()


# Cookies (sections 2.6 and 2.6.1).


@pytest.mark.rfc("7296", "2.6", "MUST", "cookie-size")
@pytest.mark.parametrize("size", [0, MAX_COOKIE_SIZE + 1])
def test_a_cookie_of_a_wrong_size_is_ignored(size):
    pair = make_pair()
    pair.fate = lambda sent: ()
    pair.do(0, "initiate", CONNECTION)
    spi_i = decode_message(ike_octets(pair.sent[0])).spi_i
    for octets, answered in ((bytes(size), False), (bytes(MAX_COOKIE_SIZE), True)):
        cookie = NotifyPayload(NotifyType.COOKIE, octets)
        forged = Message(spi_i, bytes(8), ExchangeType.IKE_SA_INIT, False, True, 0, (cookie,))
        assert bool(receive(pair, 0, forged.encode())) is answered
    assert MAX_COOKIE_SIZE == 64


@pytest.mark.rfc("7296", "2.6", "MUST", "cookie-size")
@pytest.mark.parametrize("puzzle", [None, 0])
def test_our_cookies_have_a_right_size(puzzle):
    limits = IkeLimits(cookie_threshold=0, puzzle_threshold=puzzle)
    pair = limited(limits)
    pair.connect()
    cookie = opened(pair, pair.sent[1])[0].notify(NotifyType.COOKIE)
    assert 1 <= len(cookie.data) <= 64


@pytest.mark.rfc("7296", "2.6.1", "MUST NOT", "cookie-again")
def test_a_cookie_that_is_no_longer_good_after_invalid_ke_payload():
    """A responder that does not take the cookie along asks for one again, and gets it."""
    pair = limited(ASK_COOKIES, ECP_FIRST, X25519)
    suffer(pair, fault("mangle_cookie", nth=(3,)))
    pair.connect()
    assert transcript(pair)[1:8:2] == [
        "b <-- IKE_SA_INIT: N(COOKIE)",
        "b <-- IKE_SA_INIT: N(INVALID_KE_PAYLOAD)",
        "b <-- IKE_SA_INIT: N(COOKIE)",
        "b <-- IKE_SA_INIT: SA, KE, Nr",
    ]
    pair.agreed()


# Nonces (sections 2.10 and 3.9).


@pytest.mark.rfc("7296", "3.9", "MUST NOT", "nonce-again")
@pytest.mark.rfc("7296", "2.10", "MUST", "nonce-random")
@pytest.mark.rfc("7296", "2.10", "MUST", "nonce-half-key")
def test_nonces_are_long_enough_for_every_prf_and_never_come_again():
    pair = busy()
    found = [
        p.data
        for s in ike_messages(pair)
        for p in opened(pair, s)[1]
        if isinstance(p, NoncePayload)
    ]
    nonces = set(found)
    assert len(nonces) == len(found) - 1 > 10  # the request with the cookie has the same again
    for nonce in nonces:
        assert 16 <= len(nonce) <= 256
        assert 2 * len(nonce) >= max(prf.key_size for prf in PRFS.values())


# Addresses (section 2.11).


@pytest.mark.rfc("7296", "2.11", "MUST", "answer-from-there")
@pytest.mark.parametrize("port", [500, 4500])
def test_a_response_leaves_from_where_its_request_arrived(port):
    pair = make_pair()
    pair.connect()
    source = UdpEndpoint("203.0.113.5", 23_456)
    octets = forge(pair, 0, ExchangeType.INFORMATIONAL)
    path = path_to(1, source=source, port=port)
    marker = bytes(4) if port == 4500 else b""
    (answer,) = receive(pair, 1, marker + octets, path)
    assert answer.item.path == path


# Proposals (sections 3.3 and 3.4).


@pytest.mark.rfc("7296", "3.3", "MUST", "preference")
@pytest.mark.rfc("7296", "3.3", "MUST", "numbered")
@pytest.mark.rfc("7296", "3.3", "MUST", "first-is-1")
@pytest.mark.rfc("7296", "3.3.1", "MUST", "numbers")
@pytest.mark.rfc("7296", "3.3.1", "MUST", "no-spi")
@pytest.mark.rfc("7296", "3.3.6", "SHOULD", "likely-group")
@pytest.mark.rfc("7296", "3.4", "MUST", "group-offered")
@pytest.mark.rfc("7296", "3.4", "SHOULD", "group-first")
@pytest.mark.rfc("7296", "1.3", "MUST", "ke-expected")
def test_proposals_are_numbered_from_one_in_the_order_of_preference():
    texts = ("aes256gcm16-prfsha384-ecp256", "aes128gcm16-prfsha256-x25519", "aes128-sha256-ecp256")
    pair = make_pair(both={"ike_proposals": tuple(map(parse_ike_proposal, texts))})
    pair.connect()
    request, response = (opened(pair, sent)[0] for sent in pair.sent[:2])
    offered = request.find(SaPayload).proposals
    assert [p.number for p in offered] == [1, 2, 3]
    assert [p.transforms for p in offered] == [parse_ike_proposal(t).transforms for t in texts]
    assert {p.spi for p in offered} == {b""}
    # The value belongs to a group of the offer, the one wanted most.
    assert request.find(KePayload).method == KeMethod.ECP_256
    assert response.find(SaPayload).proposals[0].number == 1
