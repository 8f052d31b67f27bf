"""The dearest messages that a peer could think of, beside the honest ones of the same exchange.

A `Moment` is a message of an honest conversation that is about to arrive; a burden changes what is
in it to what a receiver has most work with: as many payloads, transforms, selectors, SPIs,
attributes, certificates or octets as fit. Where the message has an SK payload, the change is
inside, sealed by a peer that has the keys. `benchmarks/message_cost.py` weighs them by CPU time,
and tests/test_message_work.py by the calls that they cause.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ipseclab.errors import WireError
from ipseclab.lab.mutate import mutate, mutate_chain
from ipseclab.lab.siege import Shot, Siege, fragments_of, seal, unsealed
from ipseclab.lab.siege_kits import PLAIN, Kit, kits
from ipseclab.registry import (
    AttributeType,
    AuthMethod,
    CertEncoding,
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
from ipseclab.wire.identity import MAX_CFG_ATTRIBUTES
from ipseclab.wire.message import (
    MAX_MESSAGE_SIZE,
    decode_message,
    decode_payloads,
    encode_payloads,
)
from ipseclab.wire.payloads import (
    MAX_DELETED_SPIS,
    MAX_SELECTORS,
    AuthPayload,
    CertPayload,
    CertreqPayload,
    CpAttribute,
    CpPayload,
    DeletePayload,
    EapPayload,
    IdiPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    PsPayload,
    SaPayload,
    SkPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorPayload,
)
from ipseclab.wire.proposal import (
    MAX_PROPOSALS,
    MAX_TRANSFORMS,
    Attribute,
    Proposal,
    Transform,
)
from ipseclab.wire.selector import TrafficSelector

ROOM = MAX_MESSAGE_SIZE - 2000
"""Octets that a burden may take, beside what the honest message has and its headers."""
COPIES = 31
"""Payloads of a burden, beside the honest ones; there is a limit to those of a kind."""
HASH_SIZE = 20
FEW = 14
"""Of kinds of which fewer may come."""
LARGEST = "all that fits"
ODD = (Attribute(AttributeType(15), bytes(4)),)
"""Beside its key length a transform has one attribute that nobody knows."""

Payloads = tuple[Payload, ...]
Burden = Callable[[Payloads], Payloads]


@dataclass(frozen=True, slots=True)
class Moment:
    """The last of so many datagrams after `command`, which is given at an end once the pair stands
    (or at the very beginning, for "initiate")."""

    name: str
    datagrams: int
    command: str = "initiate"
    kit: Kit = PLAIN
    side: int = 0

    def reach(self, seed: int = 0) -> tuple[Siege, Shot]:
        """A pair of gateways, and the message that is about to arrive at one of them."""
        siege = Siege(seed=seed, kit=self.kit)
        if self.command != "initiate":
            siege.begin()
            siege.talk()
        siege.command(self.side, self.command)
        siege.talk(self.datagrams - 1)
        shot, *_ = siege.hold_back()
        return siege, shot


def moments() -> tuple[Moment, ...]:
    """A moment for each message of each exchange, request and response."""
    of = {kit.name: kit for kit in kits()}
    return (
        Moment("IKE_SA_INIT request", 1),
        Moment("IKE_SA_INIT response", 2),
        Moment("IKE_SA_INIT request with COOKIE and puzzle", 3, kit=of["puzzled"]),
        Moment("IKE_INTERMEDIATE request", 3, kit=of["several-keys"]),
        Moment("IKE_AUTH request", 3),
        Moment("IKE_AUTH response", 4),
        Moment("IKE_AUTH request, certificates", 3, kit=_unfragmented(of["certificates"])),
        Moment("IKE_AUTH request, EAP begins", 3, kit=of["traveller"]),
        Moment("IKE_AUTH request, EAP-MSCHAPv2", 7, kit=of["traveller"]),
        Moment("IKE_AUTH request, EAP-TLS", 5, kit=of["eap-tls"]),
        Moment("CREATE_CHILD_SA request", 1, "create_child"),
        Moment("CREATE_CHILD_SA response", 2, "create_child"),
        Moment("CREATE_CHILD_SA request, CHILD_SA rekey", 1, "rekey_child"),
        Moment("CREATE_CHILD_SA request, IKE_SA rekey", 1, "rekey_ike"),
        Moment("INFORMATIONAL request, liveness", 1, "check_liveness"),
        Moment("INFORMATIONAL response, liveness", 2, "check_liveness"),
        Moment("INFORMATIONAL response, CHILD_SA delete", 2, "delete_child"),
        Moment("INFORMATIONAL request, CHILD_SA delete", 1, "delete_child"),
        Moment("INFORMATIONAL request, MOBIKE", 1, "check_liveness", of["traveller"]),
    )


def _unfragmented(kit: Kit) -> Kit:
    return replace(kit, both={**kit.both, "fragment_size": MAX_MESSAGE_SIZE})


def burdened(siege: Siege, shot: Shot, burden: Burden, rng: random.Random) -> Shot | None:
    """The message with its payloads changed; None where that does not fit a message."""
    opened = unsealed(siege, shot)
    try:
        if opened is None:
            assert shot.ike is not None
            bare = decode_message(shot.ike)
            return shot.with_ike(replace(bare, payloads=burden(bare.payloads)).encode())
        inside, head, keys = opened
        payloads = decode_payloads(PayloadType(inside.first), inside.chain)
        first, chain = encode_payloads(burden(payloads))
        return shot.with_ike(seal(head, keys, SkPayload(first, b""), chain, rng))
    except WireError:
        return None


def in_fragments(
    siege: Siege, shot: Shot, burden: Burden, count: int, rng: random.Random
) -> tuple[Shot, ...]:
    """The same in so many fragments."""
    opened = unsealed(siege, shot)
    if opened is None:
        return ()
    inside, head, keys = opened
    payloads = burden(decode_payloads(PayloadType(inside.first), inside.chain))
    first, chain = encode_payloads(payloads)
    parts = fragments_of(first, chain, -(-len(chain) // count))
    return tuple(shot.with_ike(seal(head, keys, kind, part, rng)) for kind, part in parts)


def mutated(siege: Siege, shot: Shot, rng: random.Random) -> Shot:
    """The message with one of `mutate.py`'s changes, inside its SK payload where it has one."""
    opened = unsealed(siege, shot)
    if opened is None:
        assert shot.ike is not None
        return shot.with_ike(mutate(shot.ike, rng))
    inside, head, keys = opened
    first, chain = mutate_chain(inside.first, inside.chain, rng)
    return shot.with_ike(seal(head, keys, SkPayload(PayloadType(first), b""), chain, rng))


# Burdens: payloads behind the honest ones, or in their place.


def _more(*payloads: Payload) -> Burden:
    return lambda honest: (*honest, *payloads)


def _instead(kind: type[Payload], *payloads: Payload) -> Burden:
    """In the place of those of that kind; behind all others where there are none."""

    def burden(honest: Payloads) -> Payloads:
        kept = tuple(payload for payload in honest if not isinstance(payload, kind))
        at = next((n for n, payload in enumerate(honest) if isinstance(payload, kind)), len(kept))
        return (*kept[:at], *payloads, *kept[at:])

    return burden


def _same(honest: Payloads) -> Payloads:
    return honest


def _transforms(count: int) -> tuple[Transform, ...]:
    """As many that nobody has: other key lengths, so that each is a value of its own."""
    kind = TransformType.ENCR
    return tuple(Transform(kind, EncrId.ENCR_AES_GCM_16, 8 * n + 1) for n in range(count))


def _proposals(proposals: int, transforms: int) -> Burden:
    """The honest SA payload's first proposal behind many that cannot be chosen."""

    def burden(honest: Payloads) -> Payloads:
        old = next((p for p in honest if isinstance(p, SaPayload)), None)
        if old is None:
            return honest
        model = old.proposals[0]
        more = tuple(
            Proposal(n % 255 + 1, model.protocol, model.spi, _transforms(transforms))
            for n in range(proposals - 1)
        )
        whole = SaPayload((*more, replace(model, number=proposals)))
        return tuple(whole if payload is old else payload for payload in honest)

    return burden


def _repeated(kind: type[Payload], times: int) -> Burden:
    """The honest payload of that kind many times."""

    def burden(honest: Payloads) -> Payloads:
        return tuple(p for p in honest for _ in range(times if isinstance(p, kind) else 1))

    return burden


def _selectors(count: int) -> tuple[TrafficSelector, ...]:
    """Single ports of an address that both kits' networks hold, none inside another."""
    return tuple(
        TrafficSelector.of_address(address, 17, (2 * n, 2 * n))
        for n in range(count // 2)
        for address in ("10.1.0.10", "10.2.0.10")
    )


def burdens() -> Mapping[str, Burden]:
    """Each by what it is; "honest" changes nothing."""
    return {"honest": _same, **_of_negotiation(), **_of_the_rest()}


def _of_negotiation() -> Mapping[str, Burden]:
    """Proposals, key exchanges, nonces, selectors."""
    odd = tuple(
        replace(transform, attributes=ODD) for transform in _transforms(MAX_TRANSFORMS // 2)
    )
    return {
        "64 proposals": _proposals(MAX_PROPOSALS, 2),
        "as many transforms as may be": _proposals(2, MAX_TRANSFORMS - 4),
        "64 proposals of 75 transforms": _proposals(64, 75),
        "transforms with attributes": _instead(
            SaPayload, SaPayload((Proposal(1, ProtocolId.IKE, b"", odd),))
        ),
        "SA many times": _repeated(SaPayload, COPIES),
        "KE many times": _repeated(KePayload, COPIES),
        "nonce of 256 octets": _instead(NoncePayload, NoncePayload(bytes(256))),
        "KE of the largest MODP group": _instead(
            KePayload, KePayload(KeMethod.MODP_8192, b"\x7f" * 1024)
        ),
        "KE of 60,000 octets": _instead(KePayload, KePayload(KeMethod.CURVE25519, bytes(ROOM))),
        "as many selectors as may be": _chain(
            _instead(TsiPayload, TsiPayload(_selectors(MAX_SELECTORS))),
            _instead(TsrPayload, TsrPayload(_selectors(MAX_SELECTORS))),
        ),
        "TSi and TSr many times": _chain(_repeated(TsiPayload, 20), _repeated(TsrPayload, 20)),
    }


def _of_the_rest() -> Mapping[str, Burden]:
    """Payloads that an exchange knows or not, in numbers and sizes."""
    big = bytes(ROOM)
    share = bytes(ROOM // COPIES - 16)
    spis = tuple(n.to_bytes(4, "big") for n in range(1, 1 + MAX_DELETED_SPIS))
    closed = DeletePayload(ProtocolId.ESP, spis)
    strange = CertreqPayload(CertEncoding.X509_SIGNATURE, _digests(len(share)))
    attributes = tuple(
        CpAttribute(CfgAttributeType(n), bytes(8)) for n in range(MAX_CFG_ATTRIBUTES)
    )
    return {
        "unknown payloads": _more(*[UnknownPayload(PayloadType(200), share)] * COPIES),
        "Vendor IDs": _more(*[VendorPayload(share)] * COPIES),
        "one Vendor ID of 60,000 octets": _more(VendorPayload(big)),
        LARGEST: _more(*[closed] * 3, VendorPayload(bytes(ROOM - 4 * 1024 - 100))),
        "DELETE of 768 SPIs": _more(*[closed] * 3),
        "CERT of nothing": _more(*[CertPayload(CertEncoding.X509_SIGNATURE, share)] * FEW),
        "CERT many times": _repeated(CertPayload, 8),
        "CRLs of nothing": _more(*[CertPayload(CertEncoding.CRL, share)] * FEW),
        "OCSP of nothing": _more(*[CertPayload(CertEncoding.OCSP_CONTENT, share)] * FEW),
        "hash and URL": _more(*[CertPayload(CertEncoding.HASH_AND_URL_X509, share)] * FEW),
        "CERTREQ of unknown authorities": _more(*[strange] * FEW),
        "everything": _more(
            *[NotifyPayload(NotifyType.ADDITIONAL_IP4_ADDRESS, bytes(4))] * 20,
            *[closed] * 3,
            *[strange] * 8,
        ),
        "as many attributes of CP as may be": _instead(
            CpPayload, CpPayload(CfgType.CFG_REQUEST, attributes)
        ),
        "CP many times": _more(*[CpPayload(CfgType.CFG_REQUEST, attributes[:60])] * COPIES),
        "an identity of 60,000 octets": _instead(IdiPayload, IdiPayload(IdType.ID_FQDN, big)),
        "AUTH of 60,000 octets": _instead(AuthPayload, AuthPayload(AuthMethod.SHARED_KEY, big)),
        "signature of 60,000 octets": _instead(
            AuthPayload, AuthPayload(AuthMethod.DIGITAL_SIGNATURE, b"\x0c" + big)
        ),
        "AUTH many times": _repeated(AuthPayload, COPIES),
        "EAP of 60,000 octets": _instead(EapPayload, EapPayload(EapCode.RESPONSE, 0, big)),
        "EAP many times": _repeated(EapPayload, COPIES),
        "puzzle solution of 60,000 octets": _instead(PsPayload, PsPayload(big)),
        **{f"N({kind.name}) many times": _notifies(kind) for kind in NotifyType},
    }


def _chain(*several: Burden) -> Burden:
    def burden(honest: Payloads) -> Payloads:
        for one in several:
            honest = one(honest)
        return honest

    return burden


def _digests(size: int) -> bytes:
    return b"".join(n.to_bytes(HASH_SIZE, "big") for n in range(size // HASH_SIZE))


def _notifies(kind: NotifyType) -> Burden:
    """Of different data, in sizes that notifications have."""
    sizes = (0, 1, 2, 4, 8, 16, 20, 32, 64, 1024)
    data = (bytes([n]) * sizes[n % len(sizes)] for n in range(COPIES - 10))
    return _more(*[NotifyPayload(kind, octets) for octets in data])
