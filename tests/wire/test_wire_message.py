"""Headers and payload chains: what a receiver ignores, keeps and refuses."""

import pytest

from ipseclab.errors import WireError
from ipseclab.registry import (
    ExchangeType,
    KeMethod,
    NotifyType,
    PayloadType,
    ProtocolId,
    TransformType,
)
from ipseclab.wire.buffer import Reader
from ipseclab.wire.message import (
    MAX_PAYLOADS,
    MOST_OF,
    Message,
    decode_header,
    decode_message,
    decode_payloads,
    encode_payloads,
)
from ipseclab.wire.payloads import (
    MAX_DELETED_SPIS,
    MAX_SELECTORS,
    PAYLOADS,
    CpPayload,
    DeletePayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
    SkfPayload,
    SkPayload,
    TsiPayload,
    UnknownPayload,
    VendorPayload,
)
from ipseclab.wire.proposal import MAX_ATTRIBUTES, MAX_PROPOSALS, MAX_TRANSFORMS

SPI_I, SPI_R = b"initiate", b"responds"
UNHEARD_OF = PayloadType(200)


def message_of(*payloads):
    return Message(SPI_I, SPI_R, ExchangeType.IKE_SA_INIT, True, False, 0, payloads)


def chain_of(kind, body, following=0):
    """One payload of type `kind` as a chain, with a header that fits `body`."""
    return bytes([following, 0]) + (4 + len(body)).to_bytes(2, "big") + body


def decode_one(kind, body):
    (payload,) = decode_payloads(kind, chain_of(kind, body))
    return payload


def test_header_fields_are_where_the_rfc_puts_them():
    octets = bytes.fromhex("0011223344556677 8899aabbccddeeff 22 20 22 08 00000007 0000001c")
    header = decode_header(octets)
    assert header.spi_i.hex() == "0011223344556677"
    assert header.spi_r.hex() == "8899aabbccddeeff"
    assert header.first == PayloadType.KE
    assert (header.major, header.minor) == (2, 0)
    assert header.exchange == ExchangeType.IKE_SA_INIT
    assert header.initiator
    assert not header.response
    assert (header.message_id, header.length) == (7, 28)
    assert header.encode() == octets


@pytest.mark.rfc("7296", "3.1", "MUST", "x-bits")
@pytest.mark.rfc("7296", "3.2", "MUST", "reserved")
@pytest.mark.rfc("7296", "2.5", "MUST", "reserved")
def test_reserved_bits_are_ignored_and_sent_as_zero():
    clean = message_of(KePayload(KeMethod.CURVE25519, b"k" * 32)).encode()
    dirty = bytearray(clean)
    dirty[19] |= 0xC7  # flags X
    dirty[29] |= 0x7F  # RESERVED of the generic payload header
    dirty[34] = dirty[35] = 0xFF  # RESERVED of KE
    assert decode_message(bytes(dirty)) == decode_message(clean)
    assert decode_message(bytes(dirty)).encode() == clean


@pytest.mark.rfc("7296", "3.1", "MUST", "v-bit")
def test_the_version_flag_is_read_but_never_sent():
    octets = bytearray(message_of().encode())
    octets[19] |= 0x10
    assert decode_header(bytes(octets)).version
    assert not decode_header(decode_message(bytes(octets)).encode()).version


@pytest.mark.parametrize(("octet", "version"), [(0x21, (2, 1)), (0x2F, (2, 15)), (0x30, (3, 0))])
def test_other_versions_are_told_not_refused(octet, version):
    octets = bytearray(message_of().encode())
    octets[17] = octet
    message = decode_message(bytes(octets))
    assert (message.major, message.minor) == version


def test_a_critical_flag_is_kept():
    unknown = UnknownPayload(PayloadType(200), b"what?", critical=True)
    octets = message_of(unknown, NoncePayload(b"n" * 16)).encode()
    assert octets[29] == 0x80
    assert decode_message(octets).payloads == (unknown, NoncePayload(b"n" * 16))


def test_an_sk_payload_ends_the_chain_and_names_the_first_payload_inside():
    message = message_of(SkPayload(PayloadType.IDI, b"sealed"))
    octets = message.encode()
    assert octets[16] == PayloadType.SK
    assert octets[28] == PayloadType.IDI
    assert decode_message(octets) == message


@pytest.mark.rfc("7296", "3.1", "MUST", "sk-last")
@pytest.mark.parametrize("body", [b"", b"x" * 40])
def test_octets_behind_an_sk_payload_are_refused(body):
    octets = bytearray(message_of(SkPayload(PayloadType.NONE, body)).encode() + b"more")
    octets[24:28] = len(octets).to_bytes(4, "big")
    with pytest.raises(WireError, match="4 octets too many"):
        decode_message(bytes(octets))


@pytest.mark.rfc("7296", "3.1", "MUST", "sk-last")
@pytest.mark.rfc("7296", "3.14", "MUST", "sk-last")
def test_an_sk_payload_that_is_not_the_last_is_not_sent():
    with pytest.raises(WireError, match="not the last"):
        message_of(SkPayload(PayloadType.NONE, b""), NoncePayload(b"n" * 16)).encode()


@pytest.mark.rfc("7383", "2.5", "MUST", "number-from-1")
@pytest.mark.rfc("7383", "2.5", "MUST", "number-to-total")
@pytest.mark.rfc("7383", "2.5", "MUST NOT", "total-0")
@pytest.mark.rfc("7383", "2.6", "MUST", "check-numbers")
@pytest.mark.parametrize(("number", "total"), [(0, 1), (2, 1), (0, 0), (65535, 65534)])
def test_a_fragment_beyond_its_total_is_refused(number, total):
    body = number.to_bytes(2, "big") + total.to_bytes(2, "big") + b"sealed"
    with pytest.raises(WireError, match=f"fragment {number} of {total}"):
        decode_one(PayloadType.SKF, body)


def test_fragments_carry_number_and_total():
    payload = SkfPayload(PayloadType.IDI, 1, 3, b"sealed")
    assert payload.encode() == b"\0\1\0\3sealed"
    assert decode_message(message_of(payload).encode()).payloads == (payload,)


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_payload_shorter_than_its_header_is_refused(length):
    octets = bytearray(message_of(VendorPayload(b"vendor")).encode())
    octets[30:32] = length.to_bytes(2, "big")
    with pytest.raises(WireError, match=f"VENDOR payload length {length}, at least 4"):
        decode_message(bytes(octets))


def test_a_zero_length_chain_of_the_largest_size_ends_at_once():
    # Next Payload points at the same type for ever, with length 4: the limit ends it.
    octets = bytes([UNHEARD_OF, 0, 0, 4]) * (65507 // 4)
    with pytest.raises(WireError, match=f"more than {MAX_PAYLOADS} payloads"):
        decode_payloads(UNHEARD_OF, octets)


def test_the_limit_on_payloads_itself_is_allowed():
    payloads = (UnknownPayload(UNHEARD_OF, b""),) * MAX_PAYLOADS
    assert decode_payloads(*encode_payloads(payloads)) == payloads


@pytest.mark.parametrize("kind", [*PAYLOADS])
def test_payloads_that_may_come_once_or_a_few_times_come_no_more_often(kind):
    most = MOST_OF.get(kind, 1)
    octets = bytes([kind, 0, 0, 4]) * (most + 1)
    with pytest.raises(WireError, match=rf"{most + 1} \w+ payloads, at most {most}$"):
        decode_payloads(kind, octets, wanted=())


def test_payloads_that_nobody_wants_stay_unread_and_are_not_critical():
    octets = bytes([PayloadType.NONCE, 0x80, 0, 5]) + b"x" + bytes([0, 0, 0, 20]) + b"n" * 16
    unread, nonce = decode_payloads(PayloadType.SA, octets, wanted=(PayloadType.NONCE,))
    assert unread == UnknownPayload(PayloadType.SA, b"x")
    assert nonce == NoncePayload(b"n" * 16)
    with pytest.raises(WireError):
        decode_payloads(PayloadType.SA, octets)


def test_an_empty_chain_is_no_payload():
    assert encode_payloads(()) == (PayloadType.NONE, b"")
    assert decode_payloads(PayloadType.NONE, b"") == ()


@pytest.mark.parametrize("octets", [b"x", b"xxxx"])
def test_octets_behind_the_last_payload_are_refused(octets):
    with pytest.raises(WireError, match="too many"):
        decode_payloads(PayloadType.NONE, octets)


@pytest.mark.parametrize("change", [-1, 1, -28])
def test_a_message_length_other_than_the_datagram_is_refused(change):
    octets = bytearray(message_of(VendorPayload(b"vendor")).encode())
    octets[24:28] = (len(octets) + change).to_bytes(4, "big")
    with pytest.raises(WireError, match="message length"):
        decode_message(bytes(octets))


def test_a_message_beyond_a_datagram_is_refused_both_ways():
    with pytest.raises(WireError, match="at most 65535"):
        message_of(VendorPayload(bytes(65530)), VendorPayload(b"")).encode()
    octets = message_of().encode()[:24] + (70_000).to_bytes(4, "big") + bytes(70_000 - 28)
    with pytest.raises(WireError, match="at most 65535"):
        decode_message(octets)


def test_a_payload_beyond_its_length_field_is_not_sent():
    with pytest.raises(WireError, match="VENDOR payload of 65536 octets"):
        encode_payloads([VendorPayload(bytes(65532))])


def test_an_ike_spi_of_another_size_is_not_sent():
    message = Message(b"short", SPI_R, ExchangeType.IKE_AUTH, True, False, 1)
    with pytest.raises(WireError, match="must be 8"):
        message.encode()


def test_find_all_and_notify_search_by_class_and_type():
    cookie = NotifyPayload(NotifyType.COOKIE, b"cookie")
    other = NotifyPayload(NotifyType(40000), b"private")
    message = message_of(cookie, VendorPayload(b"v"), other)
    assert message.find(VendorPayload) == VendorPayload(b"v")
    assert message.find(KePayload) is None
    assert message.all(NotifyPayload) == (cookie, other)
    assert message.notify(NotifyType.COOKIE) is cookie
    assert message.notify(NotifyType(40000)) is other
    assert message.notify(NotifyType.REKEY_SA) is None


def test_idi_and_idr_are_different_payloads():
    body = b"\x02\0\0\0gw1.example"
    own, peer = decode_one(PayloadType.IDI, body), decode_one(PayloadType.IDR, body)
    assert isinstance(own, IdiPayload)
    assert isinstance(peer, IdrPayload)
    assert own != peer
    assert own.data == peer.data == b"gw1.example"


REFUSED = {
    "nonce of 15 octets": (PayloadType.NONCE, b"n" * 15),
    "nonce of 257 octets": (PayloadType.NONCE, b"n" * 257),
    "SA without a proposal": (PayloadType.SA, b""),
    "KE without RESERVED": (PayloadType.KE, b"\0\x1f\0"),
    "IPv4 identity of 5 octets": (PayloadType.IDI, b"\1\0\0\0" + bytes(5)),
    "IPv6 identity of 4 octets": (PayloadType.IDR, b"\5\0\0\0" + bytes(4)),
    "notify with an ESP SPI of 8": (PayloadType.NOTIFY, b"\3\x08\x40\x09" + bytes(8)),
    "notify whose SPI is cut": (PayloadType.NOTIFY, b"\3\4\x40\x09" + bytes(3)),
    "delete of ESP SPIs of 8": (PayloadType.DELETE, b"\3\x08\0\1" + bytes(8)),
    "delete of the IKE_SA with an SPI": (PayloadType.DELETE, b"\1\x08\0\1" + bytes(8)),
    "delete of SPIs of no octets": (PayloadType.DELETE, b"\1\0\0\1"),
    "delete with SPIs left over": (PayloadType.DELETE, b"\3\4\0\1" + bytes(8)),
    "delete with an SPI missing": (PayloadType.DELETE, b"\3\4\0\2" + bytes(4)),
    "TS count above its selectors": (PayloadType.TSI, b"\1\0\0\0"),
    "EAP length above the payload": (PayloadType.EAP, b"\1\1\0\6\1"),
    "EAP length below the payload": (PayloadType.EAP, b"\1\1\0\4\1"),
    "CP attribute beyond the payload": (PayloadType.CP, b"\1\0\0\0\0\1\0\4\1\1\1"),
    "AUTH without RESERVED": (PayloadType.AUTH, b"\2\0"),
    "CERT without an encoding": (PayloadType.CERT, b""),
}


@pytest.mark.rfc("7296", "3.9", "MUST", "nonce-size")
@pytest.mark.rfc("7296", "3.11", "MUST NOT", "mixed-protocols")
@pytest.mark.rfc("7296", "3.11", "MUST", "spi-size")
@pytest.mark.rfc("7296", "3.16", "MUST", "length")
@pytest.mark.rfc("7296", "2.10", "MUST", "nonce-128")
@pytest.mark.parametrize(("kind", "body"), REFUSED.values(), ids=REFUSED.keys())
def test_a_body_that_breaks_its_format_is_refused(kind, body):
    with pytest.raises(WireError):
        decode_one(kind, body)


def proposal_octets(count, transform, last=0):
    length = 8 + count * len(transform)
    return bytes([last, 0]) + length.to_bytes(2, "big") + bytes([1, 1, 0, count])


def test_own_limits_hold():
    transform = b"\3\0\0\x08\1\0\0\x0c"
    transforms = transform * 99 + b"\0" + transform[1:]
    one = proposal_octets(100, transform, last=2) + transforms
    with pytest.raises(WireError, match=f"at most {MAX_TRANSFORMS}"):
        decode_one(PayloadType.SA, one * (MAX_TRANSFORMS // 100 + 1))
    with pytest.raises(WireError, match=f"more than {MAX_PROPOSALS} proposals"):
        decode_one(PayloadType.SA, proposal_octets(0, b"", last=2) * (MAX_PROPOSALS + 1))
    attributes = b"\x80\x14\0\0" * (MAX_ATTRIBUTES + 1)
    rich = b"\0\0" + (8 + len(attributes)).to_bytes(2, "big") + b"\1\0\0\x0c" + attributes
    with pytest.raises(WireError, match=f"more than {MAX_ATTRIBUTES} attributes"):
        decode_one(PayloadType.SA, proposal_octets(1, rich) + rich)
    selector = b"\x09\0\0\4"
    with pytest.raises(WireError, match=f"at most {MAX_SELECTORS}"):
        decode_one(PayloadType.TSI, bytes([255, 0, 0, 0]) + selector * 255)
    count = MAX_DELETED_SPIS + 1
    with pytest.raises(WireError, match=f"at most {MAX_DELETED_SPIS}"):
        decode_one(PayloadType.DELETE, b"\3\4" + count.to_bytes(2, "big") + bytes(4 * count))
    with pytest.raises(WireError, match="CP: more than"):
        decode_one(PayloadType.CP, b"\1\0\0\0" + b"\0\1\0\0" * 101)


@pytest.mark.rfc("7296", "3.11", "MUST", "one-protocol")
@pytest.mark.rfc("7296", "3.11", "MUST", "spi-size")
def test_a_delete_of_the_ike_sa_has_no_spi():
    assert DeletePayload(ProtocolId.IKE).encode() == b"\1\0\0\0"
    assert DeletePayload(ProtocolId.ESP, (b"spi1", b"spi2")).encode() == b"\3\4\0\2spi1spi2"
    with pytest.raises(WireError, match="4 octets each"):
        DeletePayload(ProtocolId.ESP, (b"spi",)).encode()


@pytest.mark.rfc("7296", "3.15.1", "MUST", "reserved-bit")
def test_eap_and_cp_keep_their_content():
    success = decode_one(PayloadType.EAP, b"\3\7\0\4")
    assert success == EapPayload(success.code, 7, b"")
    request = decode_one(PayloadType.CP, b"\1\0\0\0\x80\1\0\0")
    assert isinstance(request, CpPayload)
    assert [(a.type.name, a.value) for a in request.attributes] == [("INTERNAL_IP4_ADDRESS", b"")]
    assert request.encode() == b"\1\0\0\0\0\1\0\0"


def test_reader_never_leaves_its_container():
    reader = Reader(b"\1\2\3\4\5", "test")
    inner = reader.sub(2, "inner")
    assert inner.uint(2) == 0x0102
    with pytest.raises(WireError, match="inner: 1 octets wanted, 0 left"):
        inner.octets(1)
    assert reader.remaining == 3
    with pytest.raises(WireError, match="test: -1 octets wanted"):
        reader.sub(-1, "backwards")
    with pytest.raises(WireError, match="3 octets too many"):
        reader.finish()
    assert reader.rest() == b"\3\4\5"
    reader.finish()


PROPOSAL = bytes.fromhex(
    "0000002c010100040300000c0100000c800e0080030000080300000c0300000802000005000000080400000e"
)


@pytest.mark.rfc("7296", "3.3.3", "MUST", "all-types")
@pytest.mark.rfc("7296", "3.3.5", "MUST", "network-order")
def test_a_proposal_names_its_transforms():
    payload = decode_one(PayloadType.SA, PROPOSAL)
    assert isinstance(payload, SaPayload)
    (proposal,) = payload.proposals
    assert [str(transform) for transform in proposal.transforms] == [
        "ENCR_AES_CBC_128",
        "AUTH_HMAC_SHA2_256_128",
        "PRF_HMAC_SHA2_256",
        "MODP_2048",
    ]
    assert proposal.of_type(TransformType.ENCR)[0].key_bits == 128
    assert proposal.of_type(TransformType.KE)[0].id is KeMethod.MODP_2048
    assert proposal.of_type(TransformType.ESN) == ()
    assert payload.encode() == PROPOSAL


@pytest.mark.rfc("7296", "3.3.1", "MUST", "reserved")
@pytest.mark.rfc("7296", "3.3.2", "MUST", "reserved")
def test_reserved_octets_of_a_proposal_are_ignored():
    dirty = bytearray(PROPOSAL)
    for at in (1, 9, 13):  # of the proposal, and both of its first transform
        assert dirty[at] == 0
        dirty[at] = 0xFF
    assert decode_one(PayloadType.SA, bytes(dirty)) == decode_one(PayloadType.SA, PROPOSAL)
    assert decode_one(PayloadType.SA, bytes(dirty)).encode() == PROPOSAL


@pytest.mark.rfc("7296", "3.3", "MUST NOT", "attribute-twice")
def test_an_attribute_that_comes_twice_makes_a_transform_unusable():
    transform = bytes.fromhex("000000100100000c800e0080800e0080")
    octets = bytes.fromhex("0000001801010001") + transform
    (read,) = decode_one(PayloadType.SA, octets).proposals[0].transforms
    assert read.attributes


@pytest.mark.rfc("7296", "3.15", "MUST", "reserved")
def test_reserved_octets_of_a_configuration_payload_are_ignored():
    clean, dirty = b"\1\0\0\0\0\1\0\0", b"\1\xff\xff\xff\x80\1\0\0"
    assert decode_one(PayloadType.CP, dirty) == decode_one(PayloadType.CP, clean)
    assert decode_one(PayloadType.CP, dirty).encode() == clean


WRONG_PROPOSALS = {
    "more to come, and nothing comes": (0, 2),
    "Last Substruc of a transform": (0, 3),
    "an odd Last Substruc": (0, 1),
    "one transform too many": (7, 3),
    "one transform too few": (7, 5),
    "an IKE SPI of 4 octets": (6, 4),
    "a first transform marked as last": (8, 0),
    "a last transform with more to come": (36, 3),
    "a transform shorter than its header": (11, 7),
    "a transform beyond its proposal": (39, 9),
    "an attribute in TLV format beyond its transform": (16, 0),
    "ESP without an SPI": (5, 3),
}


@pytest.mark.rfc("7296", "3.3", "MUST", "lengths")
@pytest.mark.parametrize(("at", "value"), WRONG_PROPOSALS.values(), ids=WRONG_PROPOSALS.keys())
def test_a_wrong_proposal_is_refused(at, value):
    wrong = bytearray(PROPOSAL)
    wrong[at] = value
    with pytest.raises(WireError):
        decode_one(PayloadType.SA, bytes(wrong))


@pytest.mark.rfc("7296", "3.3.5", "MUST NOT", "short-as-long")
def test_key_length_in_the_long_format_stays_an_unknown_attribute():
    transform = bytes.fromhex("0000000e0100000c000e00020080")
    octets = bytes.fromhex("0000001601010001") + transform
    payload = decode_one(PayloadType.SA, octets)
    (read,) = payload.proposals[0].transforms
    assert read.key_bits is None
    assert [(a.type, a.value) for a in read.attributes] == [(14, b"\0\x80")]
    assert payload.encode() == octets


def test_a_selector_payload_may_be_empty_on_the_wire():
    assert decode_one(PayloadType.TSI, b"\0\0\0\0") == TsiPayload(())
