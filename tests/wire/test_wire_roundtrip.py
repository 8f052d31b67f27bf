"""Every payload: what is encoded decodes to the same value, and the value to the same octets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.registry import (
    AttributeType,
    AuthMethod,
    CertEncoding,
    CfgAttributeType,
    CfgType,
    EapCode,
    ExchangeType,
    IdType,
    KeMethod,
    NotifyType,
    PayloadType,
    ProtocolId,
    TransformType,
    TsType,
)
from ipseclab.wire.message import MOST_OF, Message, decode_header, decode_message
from ipseclab.wire.payloads import (
    PAYLOADS,
    AuthPayload,
    CertPayload,
    CertreqPayload,
    CpAttribute,
    CpPayload,
    DeletePayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    PsPayload,
    SaPayload,
    SkfPayload,
    SkPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorPayload,
)
from ipseclab.wire.proposal import TRANSFORM_IDS, Attribute, Proposal, Transform
from ipseclab.wire.selector import ADDRESS_SIZES, ANY_PORTS, OPAQUE_PORTS, TrafficSelector

octets = st.binary(max_size=80)
uint8 = st.integers(0, 0xFF)
uint16 = st.integers(0, 0xFFFF)
flag = st.booleans()

attributes = st.builds(
    Attribute,
    # Key Length itself is Transform.key_bits.
    st.integers(0, 0x7FFF).filter(lambda n: n != AttributeType.KEY_LENGTH).map(AttributeType),
    uint16 | st.binary(max_size=20),
)


@st.composite
def transforms(draw):
    kind = TransformType(draw(st.sampled_from(TransformType) | uint8))
    known = TRANSFORM_IDS.get(kind, int)
    key_bits = draw(st.none() | uint16)
    others = tuple(draw(st.lists(attributes, max_size=3)))
    return Transform(kind, known(draw(uint16)), key_bits, others)


@st.composite
def proposals(draw):
    protocol = draw(st.sampled_from(ProtocolId) | uint8.map(ProtocolId))
    sizes = {ProtocolId.IKE: (0, 8), ProtocolId.AH: (4,), ProtocolId.ESP: (4,)}
    size = draw(st.sampled_from(sizes.get(protocol, range(17))))
    spi = draw(st.binary(min_size=size, max_size=size))
    chosen = tuple(draw(st.lists(transforms(), max_size=6)))
    return Proposal(draw(uint8), protocol, spi, chosen)


@st.composite
def selectors(draw):
    kind = draw(st.sampled_from(TsType) | uint8.map(TsType))
    size = ADDRESS_SIZES.get(kind)
    if size is None:
        return TrafficSelector(kind, draw(uint8), 0, 0, b"", b"", draw(octets))
    ends = sorted(draw(st.tuples(*[st.binary(min_size=size, max_size=size)] * 2)))
    ports = draw(
        st.sampled_from([ANY_PORTS, OPAQUE_PORTS])
        | st.tuples(uint16, uint16).map(lambda pair: (min(pair), max(pair)))
    )
    return TrafficSelector(kind, draw(uint8), *ports, *ends)


@st.composite
def ids(draw):
    kind = draw(st.sampled_from(IdType) | uint8.map(IdType))
    size = {IdType.ID_IPV4_ADDR: 4, IdType.ID_IPV6_ADDR: 16}.get(kind)
    data = draw(octets if size is None else st.binary(min_size=size, max_size=size))
    return draw(st.sampled_from([IdiPayload, IdrPayload]))(kind, data, draw(flag))


@st.composite
def notifies(draw):
    protocol = draw(st.sampled_from(ProtocolId) | uint8.map(ProtocolId))
    bound_to_four = protocol in (ProtocolId.AH, ProtocolId.ESP)
    size = draw(st.sampled_from((0, 4)) if bound_to_four else st.integers(0, 16))
    spi = draw(st.binary(min_size=size, max_size=size))
    kind = draw(st.sampled_from(NotifyType) | uint16.map(NotifyType))
    return NotifyPayload(kind, draw(octets), protocol, spi, draw(flag))


@st.composite
def deletes(draw):
    protocol = draw(st.sampled_from(ProtocolId) | uint8.map(ProtocolId))
    known = {ProtocolId.IKE: 0, ProtocolId.AH: 4, ProtocolId.ESP: 4}
    size = known.get(protocol, draw(st.integers(1, 9)))
    spis = st.lists(st.binary(min_size=size, max_size=size), max_size=5) if size else st.just([])
    return DeletePayload(protocol, tuple(draw(spis)), draw(flag))


def listed(items, most=4):
    return st.lists(items, min_size=1, max_size=most).map(tuple)


certificates = st.sampled_from(CertEncoding) | uint8.map(CertEncoding)
cp_attributes = st.builds(CpAttribute, st.integers(0, 0x7FFF).map(CfgAttributeType), octets)
unknown_types = st.integers(1, 255).filter(
    lambda n: n not in PAYLOADS and n not in (PayloadType.SK, PayloadType.SKF)
)
plain_payloads = st.one_of(
    st.builds(SaPayload, listed(proposals()), flag),
    st.builds(KePayload, uint16.map(KeMethod), octets, flag),
    ids(),
    st.builds(CertPayload, certificates, octets, flag),
    st.builds(CertreqPayload, certificates, octets, flag),
    st.builds(AuthPayload, uint8.map(AuthMethod), octets, flag),
    st.builds(NoncePayload, st.binary(min_size=16, max_size=256), flag),
    notifies(),
    deletes(),
    st.builds(VendorPayload, octets, flag),
    st.builds(PsPayload, octets, flag),
    st.builds(TsiPayload, listed(selectors()), flag),
    st.builds(TsrPayload, listed(selectors()), flag),
    st.builds(CpPayload, uint8.map(CfgType), st.lists(cp_attributes, max_size=4).map(tuple), flag),
    st.builds(EapPayload, uint8.map(EapCode), uint8, octets, flag),
    st.builds(UnknownPayload, unknown_types.map(PayloadType), octets, flag),
)
payload_types = uint8.map(PayloadType)
sealed_payloads = st.one_of(
    st.builds(SkPayload, payload_types, octets, flag),
    st.tuples(payload_types, uint16, uint16, octets, flag).map(
        lambda v: SkfPayload(v[0], max(1, min(v[1:3])), max(1, *v[1:3]), *v[3:])
    ),
)


def once(payload):
    """By what a message may hold it once: its type, or itself where there may be several."""
    return payload if payload.payload_type in MOST_OF else payload.payload_type


@st.composite
def messages(draw):
    payloads = draw(st.lists(plain_payloads, max_size=6, unique_by=once))
    if draw(flag):
        payloads.append(draw(sealed_payloads))
    return Message(
        draw(st.binary(min_size=8, max_size=8)),
        draw(st.binary(min_size=8, max_size=8)),
        ExchangeType(draw(uint8)),
        draw(flag),
        draw(flag),
        draw(st.integers(0, 0xFFFFFFFF)),
        tuple(payloads),
        draw(st.integers(0, 15)),
        draw(st.integers(0, 15)),
    )


@given(messages())
def test_a_message_survives_a_round_trip(message):
    encoded = message.encode()
    decoded = decode_message(encoded)
    assert decoded == message
    assert decoded.encode() == encoded


@pytest.mark.rfc("7296", "3.2", "MUST", "all-payloads")
@pytest.mark.rfc("7296", "4", "MUST", "parse-all")
@given(plain_payloads | sealed_payloads)
def test_each_payload_survives_a_round_trip(payload):
    message = Message(b"I" * 8, b"R" * 8, ExchangeType.IKE_AUTH, True, False, 1, (payload,))
    (decoded,) = decode_message(message.encode()).payloads
    assert decoded == payload
    assert type(decoded) is type(payload)


@given(messages())
def test_a_header_says_what_its_message_says(message):
    encoded = message.encode()
    header = decode_header(encoded)
    assert header.length == len(encoded)
    assert header.encode() == encoded[:28]
    assert (header.major, header.minor) == (message.major, message.minor)
    assert (header.initiator, header.response) == (message.initiator, message.response)
