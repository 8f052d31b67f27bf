"""One payload of each kind, for tests that need any: decoded, shown to Wireshark, or damaged."""

from ipseclab.registry import (
    AuthMethod,
    CfgAttributeType,
    CfgType,
    EapCode,
    EncrId,
    IdType,
    KeMethod,
    NotifyType,
    PayloadType,
    ProtocolId,
    TransformType,
)
from ipseclab.wire.payloads import (
    AuthPayload,
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
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorPayload,
)
from ipseclab.wire.proposal import Proposal, Transform
from ipseclab.wire.selector import TrafficSelector

PAYLOADS = (
    SaPayload(
        (
            Proposal(
                1,
                ProtocolId.ESP,
                b"\xc0\xff\xee\1",
                (
                    Transform(TransformType.ENCR, EncrId.ENCR_AES_CBC, 256),
                    Transform(TransformType.KE, KeMethod.CURVE25519),
                ),
            ),
        )
    ),
    KePayload(KeMethod.CURVE25519, b"k" * 32),
    NoncePayload(b"n" * 32),
    IdiPayload(IdType.ID_FQDN, b"gw1.example.org"),
    IdrPayload(IdType.ID_IPV4_ADDR, b"\xc0\0\2\2"),
    AuthPayload(AuthMethod.SHARED_KEY, b"a" * 32),
    NotifyPayload(NotifyType.REKEY_SA, b"", ProtocolId.ESP, b"\xc0\xff\xee\2"),
    DeletePayload(ProtocolId.ESP, (b"spi1", b"spi2")),
    VendorPayload(b"vendor"),
    TsiPayload((TrafficSelector.of_network("10.1.0.0/24"), TrafficSelector.of_network("::/0"))),
    TsrPayload((TrafficSelector.of_address("10.2.0.1", 17, (53, 60)),)),
    CpPayload(CfgType.CFG_REQUEST, (CpAttribute(CfgAttributeType.INTERNAL_IP4_DNS, b"1234"),)),
    EapPayload(EapCode.REQUEST, 1, b"\1identity"),
    UnknownPayload(PayloadType(200), b"unknown", critical=True),
    SkfPayload(PayloadType.IDI, 1, 2, b"sealed" * 10),
)
