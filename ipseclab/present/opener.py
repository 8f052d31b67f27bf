"""Opens what a capture holds sealed: SK and SKF payloads and ESP packets, with the keys at hand.

Keys may come without saying whose they are (`.keys.json`): each set that could be meant is tried,
and the one under which an ICV verifies is kept for that SA. The sizes of the keys tell the suite.
What cannot be opened comes back as `Closed` with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.protection import Protection, Suite
from ipseclab.errors import IntegrityFailure, WireError
from ipseclab.ike.protection import MAX_FRAGMENTS
from ipseclab.ipsec.esp import open_captured
from ipseclab.lab.keys_read import KeyPair, Secrets
from ipseclab.registry import PayloadType
from ipseclab.wire.message import Message, decode_payloads
from ipseclab.wire.payloads import Payload, SkfPayload, SkPayload

ESP_HEADER_SIZE = 8
ESP_TRAILER_SIZE = 2

# Own limit: half-collected messages that are kept.
MOST_COLLECTIONS = 256


@dataclass(frozen=True, slots=True)
class Closed:
    """Something that stays ciphertext, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class OpenedEsp:
    """The inside of an ESP packet; `padding` is its size without the two octets of the trailer,
    `plaintext` all that was encrypted, trailer included."""

    payload: bytes
    next_header: int
    padding: int
    suite: Suite
    plaintext: bytes


@dataclass(frozen=True, slots=True)
class OpenedFragment:
    """One fragment that verified, while others are still missing."""

    size: int
    missing: int


@dataclass(frozen=True, slots=True)
class OpenedChain:
    """The plaintext of an SK payload, or of all fragments of one: a chain that begins with a
    payload of type `first`."""

    first: PayloadType
    octets: bytes


OpenedSk = tuple[Payload, ...] | OpenedFragment | Closed


def suites_for(keys: KeyPair) -> Iterator[Suite]:
    """The suites whose key sizes are those of `keys`."""
    for cipher in CIPHERS.values():
        if len(keys.encr) != cipher.key_size + cipher.salt_size:
            continue
        if cipher.aead and not keys.integ:
            yield Suite(cipher)
        elif not cipher.aead:
            for integrity in INTEGRITIES.values():
                if integrity.key_size == len(keys.integ):
                    yield Suite(cipher, integrity)


class Opener:
    """Holds the keys, what they turned out to belong to, and fragments that wait for the others."""

    def __init__(self, secrets: Secrets | None) -> None:
        self._secrets = secrets
        self._ike: dict[tuple[bytes, bytes, bool], Protection] = {}
        self._esp: dict[bytes, tuple[Suite, Protection]] = {}
        self._fragments: dict[tuple[bytes, bytes, bool, bool, int], dict[int, bytes]] = {}
        self._firsts: dict[tuple[bytes, bytes, bool, bool, int], PayloadType] = {}

    def open_message(self, octets: bytes, message: Message) -> OpenedSk:
        """The payloads inside the SK or SKF payload that ends `message`, read from `octets`."""
        found = self.open_chain(octets, message)
        return inner_payloads(found) if isinstance(found, OpenedChain) else found

    def open_chain(self, octets: bytes, message: Message) -> OpenedChain | OpenedFragment | Closed:
        """The same, not taken apart yet."""
        sealed = message.payloads[-1]
        assert isinstance(sealed, SkPayload | SkfPayload)
        associated = octets[: len(octets) - len(sealed.body)]
        plaintext = self._open_ike(message, associated, sealed.body)
        if isinstance(plaintext, Closed):
            return plaintext
        padding = plaintext[-1] + 1 if plaintext else 1
        if padding > len(plaintext):
            return Closed("the ICV verifies, but the pad length is beyond the plaintext")
        inner = plaintext[:-padding]
        if isinstance(sealed, SkfPayload):
            return self._collect(message, sealed, inner)
        return OpenedChain(sealed.first, inner)

    def open_esp(self, esp: bytes) -> OpenedEsp | Closed:
        """The inside of an ESP packet (from its SPI on)."""
        spi = esp[:4]
        kept = self._esp.get(spi)
        candidates = [kept] if kept is not None else list(self._esp_candidates(spi))
        for suite, protection in candidates:
            try:
                plaintext = open_captured(suite, protection, esp)
            except IntegrityFailure:
                continue
            else:
                self._esp[spi] = suite, protection
                return _opened_esp(plaintext, suite)
        return self._closed(f"SPI {spi.hex()}", len(candidates))

    @property
    def collecting(self) -> int:
        """Messages of which some fragments are here and some are not."""
        return len(self._fragments)

    def _open_ike(self, message: Message, associated: bytes, sealed: bytes) -> bytes | Closed:
        sa = (message.spi_i, message.spi_r, message.initiator)
        kept = self._ike.get(sa)
        if kept is not None:
            plaintext = _try(kept, associated, sealed)
            if plaintext is not None:
                return plaintext
        # Each IKE_INTERMEDIATE leaves new keys behind (RFC 9370 section 2.2.2).
        candidates = list(self._ike_candidates(message))
        for protection in candidates:
            plaintext = _try(protection, associated, sealed)
            if plaintext is not None:
                self._ike[sa] = protection
                return plaintext
        name = f"IKE SPIs {message.spi_i.hex()} {message.spi_r.hex()}"
        return self._closed(name, len(candidates))

    def _ike_candidates(self, message: Message) -> Iterator[Protection]:
        for secret in self._secrets.ike if self._secrets is not None else ():
            if secret.spis in (None, (message.spi_i, message.spi_r)):
                keys = secret.initiator if message.initiator else secret.responder
                yield from (protection for _suite, protection in _keyed([keys]))

    def _esp_candidates(self, spi: bytes) -> Iterator[tuple[Suite, Protection]]:
        secrets = self._secrets.esp if self._secrets is not None else ()
        return _keyed(secret.keys for secret in secrets if secret.spi == spi)

    def _closed(self, name: str, tried: int) -> Closed:
        if self._secrets is None:
            return Closed("no keys")
        if not tried:
            return Closed(f"no key for {name} that fits a known suite")
        return Closed(f"the ICV does not verify under any key for {name} (tried: {tried})")

    def _collect(
        self, message: Message, fragment: SkfPayload, inner: bytes
    ) -> OpenedChain | OpenedFragment | Closed:
        """RFC 7383 section 2.6: the plaintexts joined in the order of their numbers."""
        if fragment.total > MAX_FRAGMENTS:
            return Closed(f"{fragment.total} fragments, at most {MAX_FRAGMENTS} are collected")
        sender = (message.spi_i, message.spi_r, message.initiator, message.response)
        which = (*sender, message.message_id)
        parts = self._fragments.setdefault(which, {})
        parts[fragment.number] = inner
        if fragment.number == 1:
            self._firsts[which] = fragment.first
        missing = fragment.total - len(parts)
        if missing > 0:
            self._forget_oldest()
            return OpenedFragment(len(inner), missing)
        del self._fragments[which]
        first = self._firsts.pop(which, PayloadType.NONE)
        return OpenedChain(first, b"".join(parts[number] for number in sorted(parts)))

    def _forget_oldest(self) -> None:
        if len(self._fragments) > MOST_COLLECTIONS:
            oldest = next(iter(self._fragments))
            del self._fragments[oldest]
            self._firsts.pop(oldest, None)


def _keyed(pairs: Iterable[KeyPair]) -> Iterator[tuple[Suite, Protection]]:
    for keys in pairs:
        for suite in suites_for(keys):
            yield suite, suite.keyed(keys.encr, keys.integ)


def _try(protection: Protection, associated: bytes, sealed: bytes) -> bytes | None:
    try:
        return protection.open(associated, sealed)
    except IntegrityFailure:
        return None


def inner_payloads(chain: OpenedChain) -> tuple[Payload, ...] | Closed:
    """The payloads of an opened chain."""
    try:
        return decode_payloads(chain.first, chain.octets)
    except WireError as error:
        return Closed(f"the ICV verifies, but the content does not decode: {error}")


def _opened_esp(plaintext: bytes, suite: Suite) -> OpenedEsp | Closed:
    if len(plaintext) < ESP_TRAILER_SIZE:
        return Closed("the ICV verifies, but there is no ESP trailer")
    padding, next_header = plaintext[-2], plaintext[-1]
    end = len(plaintext) - ESP_TRAILER_SIZE - padding
    if end < 0:
        return Closed("the ICV verifies, but the pad length is beyond the plaintext")
    return OpenedEsp(plaintext[:end], next_header, padding, suite, plaintext)
