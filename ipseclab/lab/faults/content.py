"""Messages that say something else: payloads left out, added, damaged; sealed again if need be.

A message is taken apart into its raw payloads, changed, and put together. What is inside an
Encrypted payload is opened and sealed again with the keys of the end that sent it (RFC 7296 section
3.14). Encrypted Fragments (RFC 7383) are left as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ipseclab.crypto.names import KEYWORDS
from ipseclab.crypto.protection import Protection, Suite
from ipseclab.errors import IntegrityFailure
from ipseclab.ike.proposals import suite_of
from ipseclab.ike.protection import FLAG_INITIATOR, FLAG_RESPONSE
from ipseclab.lab.faults.fault import Fault
from ipseclab.lab.mutate import spans, with_length
from ipseclab.outputs import IkeKeyLog
from ipseclab.registry import NotifyType, PayloadType, ProtocolId
from ipseclab.wire.message import HEADER_SIZE, PAYLOAD_HEADER_SIZE
from ipseclab.wire.proposal import Transform

NEXT_PAYLOAD_AT, VERSION_AT, FLAGS_AT = 16, 17, 19
CRITICAL = 0x80
UNKNOWN_PAYLOAD = 200
"""Of the types for private use: no IKEv2 knows it (RFC 7296 section 3.2)."""
NEXT_MAJOR_VERSION = 0x30
OTHER_KEY_BITS = 1
"""A key length that no cipher has."""

_TRANSFORMS = {str(Transform(*named)): Transform(*named) for named in KEYWORDS.values()}
"""By what a key log calls them."""
_KEY_LENGTH = b"\x80\x0e"
_IV_FIRST = 1 << 63
"""IVs of what is sealed again count from here, so that none is used twice under one key."""


class RawPayload(NamedTuple):
    """A payload as octets; `flags` is the octet with the critical bit."""

    kind: int
    flags: int
    body: bytes

    @property
    def notify_type(self) -> int | None:
        """Of a Notify payload, its type."""
        if self.kind != PayloadType.NOTIFY or len(self.body) < 4:
            return None
        return int.from_bytes(self.body[2:4], "big")


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message taken apart: its header, its payloads or those inside the Encrypted payload."""

    header: bytes
    payloads: tuple[RawPayload, ...]
    sealed: bool
    spis: bytes
    """Both, as they were at first: whose keys seal it, whatever the header says now."""
    bad_padding: bool = False
    bad_icv: bool = False


class Sealer:
    """Opens and seals what one gateway sends, with the keys that it logs."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._keys: dict[tuple[bytes, bytes], list[IkeKeyLog]] = {}
        self._sealed = 0

    def learn(self, log: IkeKeyLog) -> None:
        """The secrets of one more IKE_SA, or newer ones of the same."""
        self._keys.setdefault((log.spi_i, log.spi_r), []).insert(0, log)

    def take_apart(self, octets: bytes) -> RawMessage | None:
        """The parts of a message; None when it is no IKE message or cannot be opened."""
        if len(octets) < HEADER_SIZE:
            return None
        header, chain = octets[:HEADER_SIZE], octets[HEADER_SIZE:]
        first = header[NEXT_PAYLOAD_AT]
        if first == PayloadType.SKF:
            return None
        if first != PayloadType.SK:
            return RawMessage(header, tuple(_payloads(first, chain)), False, header[:16])
        opened = self._open(octets)
        if opened is None:
            return None
        inner_first = chain[0]
        return RawMessage(header, tuple(_payloads(inner_first, opened)), True, header[:16])

    def put_together(self, message: RawMessage) -> bytes:
        """The octets of a message, sealed if it was."""
        first, chain = _chain(message.payloads)
        if message.sealed:
            octets = self._seal(message, first, chain)
        else:
            header = _with_octet(message.header, NEXT_PAYLOAD_AT, first)
            octets = with_length(header + chain)
        return octets[:-1] + bytes([octets[-1] ^ 1]) if message.bad_icv else octets

    def _candidates(self, header: bytes, spis: bytes) -> Iterator[tuple[Suite, Protection]]:
        for log in self._keys.get((spis[:8], spis[8:]), ()):
            named = (_TRANSFORMS.get(text) for text in (log.encr, log.integ))
            suite = suite_of(tuple(transform for transform in named if transform is not None))
            initiator = header[FLAGS_AT] & FLAG_INITIATOR
            keys = (log.sk_ei, log.sk_ai) if initiator else (log.sk_er, log.sk_ar)
            yield suite, suite.keyed(*keys)

    def _open(self, octets: bytes) -> bytes | None:
        start = HEADER_SIZE + PAYLOAD_HEADER_SIZE
        for _, protection in self._candidates(octets[:HEADER_SIZE], octets[:16]):
            try:
                plaintext = protection.open(octets[:start], octets[start:])
            except IntegrityFailure:
                continue
            return plaintext[: len(plaintext) - 1 - plaintext[-1]]
        return None

    def _seal(self, message: RawMessage, first: int, inner: bytes) -> bytes:
        suite, protection = next(self._candidates(message.header, message.spis))
        padding = -(len(inner) + 1) % suite.block_size
        pad_length = 0xFF if message.bad_padding else padding
        plaintext = inner + bytes(padding) + bytes([pad_length])
        body = suite.iv_size + len(plaintext) + suite.icv_size
        generic = bytes([first, 0]) + (PAYLOAD_HEADER_SIZE + body).to_bytes(2, "big")
        total = HEADER_SIZE + PAYLOAD_HEADER_SIZE + body
        header = _with_octet(message.header, NEXT_PAYLOAD_AT, PayloadType.SK)
        associated = header[:24] + total.to_bytes(4, "big") + generic
        return associated + protection.seal(associated, self._iv(suite), plaintext)

    def _iv(self, suite: Suite) -> bytes:
        if not suite.cipher.aead:
            return self._rng.randbytes(suite.iv_size)
        self._sealed += 1
        return (_IV_FIRST + self._sealed).to_bytes(suite.iv_size, "big")


def _payloads(first: int, chain: bytes) -> Iterator[RawPayload]:
    for kind, start, end in spans(first, chain):
        yield RawPayload(kind, chain[start + 1], chain[start + PAYLOAD_HEADER_SIZE : end])


def _chain(payloads: Sequence[RawPayload]) -> tuple[int, bytes]:
    kinds = [*(payload.kind for payload in payloads), PayloadType.NONE]
    parts = [
        bytes([following, payload.flags])
        + (PAYLOAD_HEADER_SIZE + len(payload.body)).to_bytes(2, "big")
        + payload.body
        for payload, following in zip(payloads, kinds[1:], strict=True)
    ]
    return kinds[0], b"".join(parts)


def _with_octet(octets: bytes, at: int, value: int) -> bytes:
    return octets[:at] + bytes([value]) + octets[at + 1 :]


# The changes: each takes a message and its fault, and returns the message changed.


def change(message: RawMessage, fault: Fault) -> RawMessage:
    """The message as `fault` has it say; the same where there is nothing to change."""
    return _CHANGES[fault.do](message, fault)


def _meant(payload: RawPayload, fault: Fault) -> bool:
    if fault.notify is not None:
        return payload.notify_type == fault.notify
    return payload.kind == fault.payload


def _omit(message: RawMessage, fault: Fault) -> RawMessage:
    kept = tuple(payload for payload in message.payloads if not _meant(payload, fault))
    return replace(message, payloads=kept)


def _add(message: RawMessage, fault: Fault) -> RawMessage:
    return replace(message, payloads=(*message.payloads, _added(fault, 0)))


def _added(fault: Fault, flags: int) -> RawPayload:
    if fault.notify is not None:
        notify = bytes([ProtocolId.NONE, 0]) + fault.notify.to_bytes(2, "big")
        return RawPayload(PayloadType.NOTIFY, flags, notify + fault.data)
    kind = fault.payload if fault.payload is not None else UNKNOWN_PAYLOAD
    return RawPayload(kind, flags, fault.data)


def _repeat(message: RawMessage, fault: Fault) -> RawMessage:
    doubled = (payload for one in message.payloads for payload in (one,) * (1 + _meant(one, fault)))
    return replace(message, payloads=tuple(doubled))


def _critical(message: RawMessage, fault: Fault) -> RawMessage:
    return replace(message, payloads=(*message.payloads, _added(fault, CRITICAL)))


def _no_delete(message: RawMessage, fault: Fault) -> RawMessage:
    if message.header[FLAGS_AT] & FLAG_RESPONSE:
        return message
    return _omit(message, replace(fault, payload=PayloadType.DELETE, notify=None))


def _bodies(
    message: RawMessage, kinds: Sequence[int], edit: Callable[[bytes], bytes]
) -> RawMessage:
    """The message with the body of each payload of those types edited."""
    return replace(
        message,
        payloads=tuple(
            payload._replace(body=edit(payload.body)) if payload.kind in kinds else payload
            for payload in message.payloads
        ),
    )


def _ke_empty(message: RawMessage, fault: Fault) -> RawMessage:
    return _bodies(message, (PayloadType.KE,), lambda body: body[:4])


def _ke_zero(message: RawMessage, fault: Fault) -> RawMessage:
    return _bodies(message, (PayloadType.KE,), lambda body: body[:4] + bytes(len(body) - 4))


def _ke_group(message: RawMessage, fault: Fault) -> RawMessage:
    group = (fault.value if fault.value is not None else 0).to_bytes(2, "big")
    return _bodies(message, (PayloadType.KE,), lambda body: group + body[2:])


def _selector_count(message: RawMessage, fault: Fault) -> RawMessage:
    kinds = (PayloadType.TSI, PayloadType.TSR)
    return _bodies(message, kinds, lambda body: bytes([(body[0] + 1) & 0xFF]) + body[1:])


def _mangle_cookie(message: RawMessage, fault: Fault) -> RawMessage:
    mangled = tuple(
        payload._replace(body=payload.body[:-1] + bytes([payload.body[-1] ^ 1]))
        if payload.notify_type == NotifyType.COOKIE
        else payload
        for payload in message.payloads
    )
    return replace(message, payloads=mangled)


def _key_length(message: RawMessage, fault: Fault) -> RawMessage:
    bits = fault.value if fault.value is not None else OTHER_KEY_BITS
    return _bodies(message, (PayloadType.SA,), lambda body: _with_key_length(body, bits))


def _with_key_length(body: bytes, bits: int) -> bytes:
    """The proposals with every Key Length attribute (RFC 7296 section 3.3.5) set to `bits`."""
    changed, proposal = bytearray(body), 0
    while proposal + 8 <= len(body):
        end = proposal + max(8, int.from_bytes(body[proposal + 2 : proposal + 4], "big"))
        transform = proposal + 8 + body[proposal + 6]
        while transform + 8 <= min(end, len(body)):
            length = max(8, int.from_bytes(body[transform + 2 : transform + 4], "big"))
            for attribute in range(transform + 8, transform + length - 3, 4):
                if body[attribute : attribute + 2] == _KEY_LENGTH:
                    changed[attribute + 2 : attribute + 4] = bits.to_bytes(2, "big")
            transform += length
        proposal = end
    return bytes(changed)


def _wrong_spi(message: RawMessage, fault: Fault) -> RawMessage:
    """The receiver's SPI with one bit turned over."""
    initiator = message.header[FLAGS_AT] & FLAG_INITIATOR
    at = 15 if initiator else 7
    return replace(message, header=_with_octet(message.header, at, message.header[at] ^ 1))


def _version(message: RawMessage, fault: Fault) -> RawMessage:
    version = fault.value if fault.value is not None else NEXT_MAJOR_VERSION
    return replace(message, header=_with_octet(message.header, VERSION_AT, version))


def _bad_icv(message: RawMessage, fault: Fault) -> RawMessage:
    return replace(message, bad_icv=True)


def _bad_padding(message: RawMessage, fault: Fault) -> RawMessage:
    return replace(message, bad_padding=True)


_CHANGES: Mapping[str, Callable[[RawMessage, Fault], RawMessage]] = {
    "omit": _omit,
    "add": _add,
    "repeat": _repeat,
    "ke_empty": _ke_empty,
    "ke_zero": _ke_zero,
    "ke_group": _ke_group,
    "mangle_cookie": _mangle_cookie,
    "wrong_spi": _wrong_spi,
    "version": _version,
    "critical": _critical,
    "bad_icv": _bad_icv,
    "bad_padding": _bad_padding,
    "key_length": _key_length,
    "selector_count": _selector_count,
    "no_delete": _no_delete,
}
