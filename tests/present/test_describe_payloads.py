"""Every payload, and what ESP carries, in words."""

import pytest

from ipseclab.outputs import UdpEndpoint
from ipseclab.present.describe import MEANINGS, Context, describe_packet, describe_payload
from ipseclab.registry import (
    AuthMethod,
    CertEncoding,
    CfgAttributeType,
    CfgType,
    EapCode,
    EncrId,
    ExchangeType,
    IdType,
    KeMethod,
    NotifyType,
    PayloadType,
    ProtocolId,
    TransformType,
)
from ipseclab.wire.ip import build_icmp_echo, build_ipv4, build_udp
from ipseclab.wire.ipv6 import build_icmpv6, build_ipv6
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import (
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
    SaPayload,
    SkfPayload,
    SkPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorPayload,
)
from ipseclab.wire.proposal import Attribute, Proposal, Transform
from ipseclab.wire.selector import TrafficSelector

REQUEST = Message(b"I" * 8, b"R" * 8, ExchangeType.IKE_AUTH, True, False, 1)
RESPONSE = Message(b"I" * 8, b"R" * 8, ExchangeType.IKE_AUTH, False, True, 1)
ENDS = UdpEndpoint("192.0.2.1", 4500), UdpEndpoint("192.0.2.2", 4500)

ENCR = [Transform(TransformType.ENCR, EncrId.ENCR_AES_GCM_16, bits) for bits in (256, 128)]
ODD = Transform(TransformType.KE, KeMethod.CURVE25519, None, (Attribute(99, b"?"),))


def described(payload, message=REQUEST):
    return describe_payload(payload, Context(message, *ENDS))


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (KePayload(KeMethod.ECP_384, bytes(96)), "KE    ECP_384, 96 octets"),
        (KePayload(KeMethod(4711), b""), "KE    UNASSIGNED_4711, 0 octets"),
        (NoncePayload(bytes(16)), "Ni    16 octets"),
        (IdiPayload(IdType.ID_IPV4_ADDR, b"\xc0\0\2\1"), "IDi   ID_IPV4_ADDR 192.0.2.1"),
        (IdiPayload(IdType.ID_IPV6_ADDR, bytes(15) + b"\1"), "IDi   ID_IPV6_ADDR ::1"),
        (IdrPayload(IdType.ID_FQDN, "bär".encode()), "IDr   ID_FQDN bär"),
        (IdrPayload(IdType.ID_KEY_ID, b"\0\1"), "IDr   ID_KEY_ID 0001"),
        (IdrPayload(IdType.ID_FQDN, b"\x1b[31m"), "IDr   ID_FQDN 1b5b33316d"),
        (CertPayload(CertEncoding.X509_SIGNATURE, b"x" * 9), "CERT X509_SIGNATURE, 9 octets"),
        (CertreqPayload(CertEncoding.X509_SIGNATURE, b""), "CERTREQ X509_SIGNATURE, 0 octets"),
        (AuthPayload(AuthMethod.SHARED_KEY, bytes(32)), "AUTH  SHARED_KEY, 32 octets"),
        (DeletePayload(ProtocolId.IKE), "D     this IKE SA"),
        (DeletePayload(ProtocolId.ESP, (b"\1\2\3\4", b"spi2")), "D     ESP SPI 01020304 73706932"),
        (VendorPayload(b"a vendor"), "V     a vendor"),
        (VendorPayload(bytes(40)), f"V     {'00' * 32}... (40 octets)"),
        (
            TsiPayload((TrafficSelector.of_network("10.1.0.0/24", 17, (53, 53)),)),
            "TSi   10.1.0.0/24[udp/53]",
        ),
        (TsrPayload(()), "TSr   none"),
        (
            CpPayload(
                CfgType.CFG_REPLY,
                (CpAttribute(CfgAttributeType.INTERNAL_IP4_ADDRESS, b"\x0a\0\0\1"),),
            ),
            "CP    CFG_REPLY INTERNAL_IP4_ADDRESS=0a000001",
        ),
        (EapPayload(EapCode.REQUEST, 3, b"\1"), "EAP   REQUEST 3, 1 octets"),
        (SkPayload(PayloadType.IDI, bytes(50)), "SK    50 octets"),
        (SkfPayload(PayloadType.IDI, 2, 3, bytes(50)), "SKF   fragment 2 of 3, 50 octets"),
        (
            UnknownPayload(PayloadType(200), b"\0", critical=True),
            "?     payload of unknown type 200: 00 (critical)",
        ),
    ],
)
def test_each_payload_in_a_line(payload, line):
    assert described(payload) == [line]


def test_a_proposal_shows_its_alternatives():
    proposals = (
        Proposal(1, ProtocolId.ESP, b"spi4", (*ENCR, ODD)),
        Proposal(2, ProtocolId.IKE, b"", ()),
    )
    assert described(SaPayload(proposals)) == [
        "SA",
        "  proposal 1 ESP SPI 73706934: ENCR_AES_GCM_16_256 or ENCR_AES_GCM_16_128, CURVE25519 "
        "(1 unknown attributes)",
        "  proposal 2 IKE: ",
    ]


def test_a_nonce_is_its_sender_s():
    assert described(NoncePayload(bytes(32)), RESPONSE) == ["Nr    32 octets"]


@pytest.mark.parametrize(
    ("notify", "ending"),
    [
        (NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, b"\0\x1f"), ": CURVE25519"),
        (NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, b"\0"), ": 00"),
        (NotifyPayload(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, b"\x2b"), ": type 43 (VENDOR)"),
        (NotifyPayload(NotifyType.SET_WINDOW_SIZE, b"\0\0\0\5"), ": 5"),
        (NotifyPayload(NotifyType.SIGNATURE_HASH_ALGORITHMS, b"\0\2\0\x63"), ": SHA2-256, 99"),
        (NotifyPayload(NotifyType.ADDITIONAL_IP4_ADDRESS, b"\xc0\0\2\7"), ": 192.0.2.7"),
        (NotifyPayload(NotifyType.ADDITIONAL_IP4_ADDRESS, b"\xc0\0\2"), ": c00002"),
        (NotifyPayload(NotifyType.COOKIE, b"\xff\0"), "at its address: ff00"),
        (NotifyPayload(NotifyType(40001), b""), "status notification that is unknown here"),
        (NotifyPayload(NotifyType(99), b"why"), "error notification that is unknown here: why"),
        (
            NotifyPayload(NotifyType.REKEY_SA, b"", ProtocolId.ESP, b"spi4"),
            "N(REKEY_SA) ESP SPI 73706934  the new CHILD SA replaces this one",
        ),
        (
            NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20)),
            "does not match 192.0.2.1:4500: a NAT changed it, or one is pretended",
        ),
    ],
)
def test_a_notification_says_what_it_means(notify, ending):
    (line,) = described(notify)
    assert line.startswith(f"N({notify.notify_type.name})")
    assert line.endswith(ending)


def test_every_notification_of_the_registry_has_a_meaning():
    assert [kind.name for kind in NotifyType if kind not in MEANINGS] == []


SIX = bytes.fromhex("20010db8") + bytes(11) + b"\1"
SOURCE, DESTINATION = b"\x0a\1\0\1", b"\x0a\2\0\1"
UDP = build_udp(SOURCE, 1000, DESTINATION, 2000, b"data")


@pytest.mark.parametrize(
    ("next_header", "payload", "text"),
    [
        (4, build_ipv4(SOURCE, DESTINATION, 17, UDP), "UDP 10.1.0.1 > 10.2.0.1 1000 > 2000"),
        (
            4,
            build_ipv4(SOURCE, DESTINATION, 1, build_icmp_echo(0, 1, 77, b"")),
            "ICMP 10.1.0.1 > 10.2.0.1 echo reply 77",
        ),
        (
            4,
            build_ipv4(SOURCE, DESTINATION, 1, build_icmp_echo(3, 1, 77, b"")),
            "ICMP 10.1.0.1 > 10.2.0.1 type 3 code 0",
        ),
        (4, build_ipv4(SOURCE, DESTINATION, 1, b"\x08"), "ICMP 10.1.0.1 > 10.2.0.1"),
        (17, UDP, "UDP 1000 > 2000"),
        (6, b"\0\x50\x1f\x90", "TCP 80 > 8080"),
        (17, b"\0", "UDP"),
        (1, build_icmp_echo(8, 1, 5, b""), "ICMP echo request 5"),
        (59, b"anything", "a dummy packet (traffic flow confidentiality)"),
        (
            41,
            build_ipv6(SIX, SIX, 58, build_icmpv6(SIX, SIX, 128, 0, bytes([0, 1, 0, 9]))),
            "ICMPV6 2001:db8::1 > 2001:db8::1 echo request 9",
        ),
        (41, build_ipv6(SIX, SIX, 17, UDP), "UDP 2001:db8::1 > 2001:db8::1 1000 > 2000"),
        (
            41,
            b"\x60",
            "an IPv6 packet that does not decode: IPv6 packet 1 octets, at least 40 needed",
        ),
        (4, b"", "an IPv4 packet that does not decode: IPv4 packet 0 octets, at least 20 needed"),
    ],
)
def test_what_an_esp_packet_carried(next_header, payload, text):
    assert describe_packet(next_header, payload) == text
