"""Opening sealed things: fragments in any order, wrong padding, keys that fit nothing."""

import random

import pytest

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.protection import Suite
from ipseclab.ike.protection import MAX_FRAGMENTS
from ipseclab.lab.keys_read import EspSecrets, IkeSecrets, KeyPair, Secrets
from ipseclab.present.opener import (
    MOST_COLLECTIONS,
    Closed,
    OpenedFragment,
    Opener,
    suites_for,
)
from ipseclab.registry import EncrId, ExchangeType, IntegId, NotifyType, PayloadType
from ipseclab.wire.message import Message, decode_message, encode_payloads
from ipseclab.wire.payloads import (
    IdiPayload,
    NoncePayload,
    NotifyPayload,
    SkfPayload,
    SkPayload,
    VendorPayload,
)

GCM = Suite(CIPHERS[EncrId.ENCR_AES_GCM_16, 128])
KEYS = KeyPair(b"k" * 20, b"")
OTHER, STRANGE = KeyPair(b"o" * 20, b""), KeyPair(b"s" * 20, b"")
SPIS = (b"initiato", b"responde")
SECRETS = Secrets((IkeSecrets(OTHER, KEYS), IkeSecrets(KEYS, OTHER, SPIS)))
PAYLOADS = (NoncePayload(b"n" * 40), NotifyPayload(NotifyType.COOKIE, b"c" * 30))


def sealed(payload_of, plaintext, *, message_id=1, keys=KEYS):
    """A message of the initiator that ends with an SK or SKF payload around `plaintext`."""
    body = bytes(8 + len(plaintext) + 16)
    head = (*SPIS, ExchangeType.IKE_AUTH, True, False, message_id)
    blank = Message(*head, (payload_of(body),)).encode()
    associated = blank[: -len(body)]
    iv = random.Random(plaintext).randbytes(8)
    octets = associated + GCM.keyed(*keys).seal(associated, iv, plaintext)
    return octets, decode_message(octets)


def fragment(number, total, part, *, message_id=1, first=PayloadType.NONE):
    return sealed(
        lambda body: SkfPayload(first, number, total, body), part + b"\0", message_id=message_id
    )


def test_an_sk_payload_opens_under_the_senders_keys():
    first, chain = encode_payloads(PAYLOADS)
    octets, message = sealed(lambda body: SkPayload(first, body), chain + b"\1\2\3\3")
    assert Opener(SECRETS).open_message(octets, message) == PAYLOADS


def test_a_bad_icv_stays_closed_and_says_why():
    octets, message = sealed(lambda body: SkPayload(PayloadType.NONE, body), b"\0", keys=STRANGE)
    closed = Opener(SECRETS).open_message(octets, message)
    assert isinstance(closed, Closed)
    assert "does not verify" in closed.reason
    assert SPIS[0].hex() in closed.reason


def test_keys_of_another_sa_are_not_tried():
    secrets = Secrets((IkeSecrets(KEYS, KEYS, (b"another!", SPIS[1])),))
    octets, message = sealed(lambda body: SkPayload(PayloadType.NONE, body), b"\0")
    closed = Opener(secrets).open_message(octets, message)
    assert isinstance(closed, Closed)
    assert closed.reason.startswith("no key for IKE SPIs")


@pytest.mark.parametrize("plaintext", [b"", b"\1", b"ab\xff"])
def test_a_pad_length_beyond_the_plaintext_is_told(plaintext):
    octets, message = sealed(lambda body: SkPayload(PayloadType.NONE, body), plaintext)
    closed = Opener(SECRETS).open_message(octets, message)
    assert isinstance(closed, Closed)
    assert "pad length" in closed.reason


def test_content_that_does_not_decode_is_told():
    octets, message = sealed(lambda body: SkPayload(PayloadType.IDI, body), b"nonsense\0")
    closed = Opener(SECRETS).open_message(octets, message)
    assert isinstance(closed, Closed)
    assert "does not decode" in closed.reason


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_fragments_come_together_in_any_order(order):
    first, chain = encode_payloads(PAYLOADS)
    parts = {1: chain[:20], 2: chain[20:50], 3: chain[50:]}
    opener = Opener(SECRETS)
    for count, number in enumerate(order, 1):
        kind = first if number == 1 else PayloadType.NONE
        opened = opener.open_message(*fragment(number, 3, parts[number], first=kind))
        if count < 3:
            assert opened == OpenedFragment(len(parts[number]), 3 - count)
    assert opened == PAYLOADS


def test_fragments_of_different_messages_are_kept_apart():
    opener = Opener(SECRETS)
    first, chain = encode_payloads((VendorPayload(b"v" * 10),))
    one = fragment(1, 2, chain[:5], message_id=1, first=first)
    assert isinstance(opener.open_message(*one), OpenedFragment)
    other = fragment(2, 2, chain[5:], message_id=2)
    assert isinstance(opener.open_message(*other), OpenedFragment)
    last = fragment(2, 2, chain[5:], message_id=1)
    assert opener.open_message(*last) == (VendorPayload(b"v" * 10),)


def test_fragments_are_bounded():
    opener = Opener(SECRETS)
    closed = opener.open_message(*fragment(1, MAX_FRAGMENTS + 1, b"part"))
    assert isinstance(closed, Closed)
    assert f"at most {MAX_FRAGMENTS}" in closed.reason
    for message_id in range(2 * MOST_COLLECTIONS):
        opener.open_message(*fragment(1, 2, b"part", message_id=message_id))
    assert opener.collecting == MOST_COLLECTIONS


def esp_packet(plaintext, spi=b"spi4"):
    header = spi + b"\0\0\0\7"
    return header + GCM.keyed(*KEYS).seal(header, bytes(8), plaintext)


def test_an_esp_packet_opens_under_whichever_key_of_its_spi_fits():
    secrets = Secrets((), (EspSecrets(b"spi4", OTHER), EspSecrets(b"spi4", KEYS)))
    opened = Opener(secrets).open_esp(esp_packet(b"payload\1\2\2\x04"))
    assert not isinstance(opened, Closed)
    assert (opened.payload, opened.padding, opened.next_header) == (b"payload", 2, 4)
    assert opened.suite == GCM


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (esp_packet(b"payload\0\4", spi=b"else"), "no key for SPI 656c7365"),
        (esp_packet(b"\4"), "no ESP trailer"),
        (esp_packet(b"\xff\4"), "pad length is beyond"),
        (esp_packet(b"payload\0\4")[:-1], "does not verify"),
        (b"spi4\0\0\0\1", "does not verify"),
    ],
)
def test_an_esp_packet_that_stays_closed_says_why(packet, reason):
    closed = Opener(Secrets((), (EspSecrets(b"spi4", KEYS),))).open_esp(packet)
    assert isinstance(closed, Closed)
    assert reason in closed.reason


def test_key_sizes_tell_the_suites():
    def names(encr, integ=0):
        found = suites_for(KeyPair(bytes(encr), bytes(integ)))
        return [(s.cipher.id.name, s.integrity.id.name if s.integrity else "") for s in found]

    assert names(20)[0] == ("ENCR_AES_GCM_16", "")
    assert {name for name, _ in names(20)} == {
        "ENCR_AES_GCM_16",
        "ENCR_AES_GCM_12",
        "ENCR_AES_GCM_8",
        "ENCR_AES_GCM_16_IIV",
        "ENCR_NULL_AUTH_AES_GMAC",
    }
    assert names(36)[:2] == [("ENCR_AES_GCM_16", ""), ("ENCR_CHACHA20_POLY1305", "")]
    assert names(16, 32) == [("ENCR_AES_CBC", IntegId.AUTH_HMAC_SHA2_256_128.name)]
    assert names(20, 20) == [("ENCR_AES_CTR", IntegId.AUTH_HMAC_SHA1_96.name)]
    assert names(16) == []
    assert names(24, 33) == []
    assert names(29, 20) == []
    assert {i.key_size for i in INTEGRITIES.values()} == {16, 20, 32, 48, 64}


def test_an_identity_inside_is_read():
    first, chain = encode_payloads((IdiPayload(2, b"gw1"),))
    octets, message = sealed(lambda body: SkPayload(first, body), chain + b"\0")
    (identity,) = Opener(SECRETS).open_message(octets, message)
    assert identity.data == b"gw1"
