"""The Encrypted payload: IVs, padding, what the ICV covers (RFC 7296 section 3.14)."""

from random import Random

import pytest

from ipseclab.errors import IntegrityFailure, WireError
from ipseclab.ike.keys import IkeKeys
from ipseclab.ike.proposals import parse_ike_proposal, suite_of
from ipseclab.ike.protection import Envelope, MessageProtection, head_of
from ipseclab.registry import ExchangeType, PayloadType
from ipseclab.wire.payloads import VendorPayload

ENVELOPE = Envelope(b"i" * 8, b"r" * 8, ExchangeType.INFORMATIONAL, True, False, 7)
HEAD = 32
CBC, AEAD = "aes128-sha256-x25519", "aes128gcm16-prfsha256-x25519"


def protections(text, seed=1):
    """The initiator's protection, the responder's, and the suite."""
    suite = suite_of(parse_ike_proposal(text).transforms)
    encr, integ = (bytes(range(size)) for size in (suite.encr_key_size, suite.integ_key_size))
    keys = IkeKeys(b"d", integ, integ[::-1], encr, encr[::-1], b"p", b"q")
    ends = (MessageProtection(suite, keys, initiator=i, rng=Random(seed)) for i in (True, False))
    return *ends, suite, keys


@pytest.mark.rfc("7296", "3.14", "MUST", "iv-unpredictable")
@pytest.mark.rfc("7296", "3.14", "MUST", "iv-any")
def test_ivs_of_cbc_are_drawn_and_any_is_accepted():
    sender, receiver, suite, keys = protections(CBC)
    sealed = [sender.seal(ENVELOPE, (VendorPayload(b"x"),)) for _ in range(50)]
    ivs = {octets[HEAD : HEAD + suite.iv_size] for octets in sealed}
    assert len(ivs) == 50
    other = protections(CBC, seed=2)[0].seal(ENVELOPE, (VendorPayload(b"x"),))
    assert other[HEAD : HEAD + suite.iv_size] not in ivs
    inner = b"\0\0\0\x05x" + bytes(10) + bytes([10])
    for iv in (bytes(16), b"\xff" * 16):
        head = head_of(ENVELOPE, PayloadType.VENDOR, suite.iv_size + 16 + suite.icv_size)
        octets = head + suite.keyed(keys.sk_ei, keys.sk_ai).seal(head, iv, inner)
        assert receiver.open(octets).opened().payloads == (VendorPayload(b"x"),)


@pytest.mark.rfc("7296", "3.14", "MUST", "padding")
@pytest.mark.rfc("7296", "3.14", "SHOULD", "least-padding")
@pytest.mark.rfc("7296", "3.14", "MUST", "any-padding")
@pytest.mark.parametrize("text", [CBC, AEAD])
def test_padding_is_the_least_and_any_is_accepted(text):
    sender, receiver, suite, keys = protections(text)
    block = suite.block_size
    for size in range(40):
        payload = VendorPayload(bytes(size))
        octets = sender.seal(ENVELOPE, (payload,))
        inner = len(octets) - HEAD - suite.iv_size - suite.icv_size
        assert inner == (4 + size + 1 + block - 1) // block * block
        assert receiver.open(octets).opened().payloads == (payload,)
    chain = b"\0\0\0\x08data"
    for padding in range(256):
        plaintext = chain + b"\x5a" * padding + bytes([padding])
        if len(plaintext) % block:
            continue
        body = suite.iv_size + len(plaintext) + suite.icv_size
        head = head_of(ENVELOPE, PayloadType.VENDOR, body)
        sealed = suite.keyed(keys.sk_ei, keys.sk_ai).seal(head, bytes(suite.iv_size), plaintext)
        assert receiver.open(head + sealed).opened().payloads == (VendorPayload(b"data"),)


@pytest.mark.rfc("7296", "3.14", "MUST", "icv-over-ciphertext")
@pytest.mark.parametrize("text", [CBC, AEAD])
def test_every_octet_is_under_the_icv(text):
    sender, receiver, *_ = protections(text)
    octets = sender.seal(ENVELOPE, (VendorPayload(b"some octets"),))
    for at in range(len(octets)):
        bad = bytearray(octets)
        bad[at] ^= 1
        with pytest.raises((IntegrityFailure, WireError)):
            receiver.open(bytes(bad))
