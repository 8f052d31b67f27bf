"""What two gateways of a Pair said to each other, opened and written as in RFC 7296 section 1.2."""

from __future__ import annotations

from collections.abc import Iterable

from pair import Pair, Sent

from ipseclab.errors import IntegrityFailure
from ipseclab.lab.keys_read import KeyPair
from ipseclab.outputs import IkeKeyLog, SendDatagram
from ipseclab.present.opener import suites_for
from ipseclab.registry import NotifyType, PayloadType
from ipseclab.wire.message import Message, decode_message, decode_payloads
from ipseclab.wire.payloads import DeletePayload, NotifyPayload, Payload, SkPayload

LABELS = {
    PayloadType.KE: "KE",
    PayloadType.NONCE: "N",
    PayloadType.IDI: "IDi",
    PayloadType.IDR: "IDr",
    PayloadType.TSI: "TSi",
    PayloadType.TSR: "TSr",
}
LEFT_OUT = (
    NotifyType.NAT_DETECTION_SOURCE_IP,
    NotifyType.NAT_DETECTION_DESTINATION_IP,
    NotifyType.IKEV2_FRAGMENTATION_SUPPORTED,
    NotifyType.CHILDLESS_IKEV2_SUPPORTED,
)


def ike_octets(sent: Sent) -> bytes:
    """The IKE message, without a non-ESP marker."""
    assert isinstance(sent.item, SendDatagram)
    marked = sent.item.path.local.port == 4500
    return sent.item.data[4:] if marked else sent.item.data


def opened(pair: Pair, sent: Sent) -> tuple[Message, tuple[Payload, ...]]:
    """A message and its payloads, those of the Encrypted payload where there is one."""
    message = decode_message(ike_octets(sent))
    if message.find(SkPayload) is None:
        return message, message.payloads
    return message, decode_payloads(*unsealed(pair, sent))


def unsealed(pair: Pair, sent: Sent) -> tuple[PayloadType, bytes]:
    """What is inside the Encrypted payload: the first payload's type, and the chain as octets."""
    octets = ike_octets(sent)
    message = decode_message(octets)
    sk = message.find(SkPayload)
    assert sk is not None
    # Newest first: each IKE_INTERMEDIATE leaves new keys behind, of the same SPIs.
    for key in reversed(pair.keys):
        if not isinstance(key, IkeKeyLog):
            continue
        if (key.spi_i, key.spi_r) != (message.spi_i, message.spi_r):
            continue
        keys = KeyPair(key.sk_ei, key.sk_ai) if message.initiator else KeyPair(key.sk_er, key.sk_ar)
        protection = next(suites_for(keys)).keyed(keys.encr, keys.integ)
        try:
            plaintext = protection.open(octets[: len(octets) - len(sk.body)], sk.body)
        except IntegrityFailure:
            continue
        return sk.first, plaintext[: len(plaintext) - 1 - plaintext[-1]]
    raise AssertionError(f"no key opens {message.exchange.name} {message.message_id}")


def ike_messages(pair: Pair, *, first: int = 0) -> list[Sent]:
    """The IKE messages among what was sent, from the `first` thing sent on."""
    return [sent for sent in pair.sent[first:] if sent.header is not None]


def transcript(pair: Pair, *, first: int = 0) -> list[str]:
    """A line a message: who, request (-->) or response (<--), exchange, payloads."""
    return [_line(pair, sent) for sent in ike_messages(pair, first=first)]


def _line(pair: Pair, sent: Sent) -> str:
    message, payloads = opened(pair, sent)
    inside = ", ".join(_labels(payloads, response=message.response))
    if message.find(SkPayload) is not None:
        inside = f"SK {{{inside}}}"
    arrow = "<--" if message.response else "-->"
    return f"{'ab'[sent.sender]} {arrow} {message.exchange.name}: {inside}"


def _labels(payloads: Iterable[Payload], *, response: bool) -> Iterable[str]:
    for payload in payloads:
        kind = payload.payload_type
        if isinstance(payload, NotifyPayload):
            if payload.notify_type not in LEFT_OUT:
                yield f"N({payload.notify_type.name})"
        elif isinstance(payload, DeletePayload):
            yield f"D({payload.protocol.name})"
        elif kind == PayloadType.NONCE:
            yield "Nr" if response else "Ni"
        else:
            yield LABELS.get(kind, kind.name)
