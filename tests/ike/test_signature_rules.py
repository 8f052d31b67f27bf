"""RFC 7427 section 4: SIGNATURE_HASH_ALGORITHMS, and signatures that do not keep to it."""

from random import Random

import pytest
from pair import make_pair
from transcript import ike_octets

from ipseclab.crypto.signature import (
    OWN_HASHES,
    SCHEMES,
    SignatureFailure,
    decode_digital_signature,
    public_key_info,
)
from ipseclab.ike.credentials import RawKeyAuth, RawKeyDemand
from ipseclab.lab.pki import make_key
from ipseclab.registry import HashAlgorithmId, NotifyType
from ipseclab.wire.message import decode_message

KIND = NotifyType.SIGNATURE_HASH_ALGORITHMS


def raw_pair(kind="ecdsa-p256"):
    keys = [make_key(kind, Random(f"rules {side}")) for side in (0, 1)]
    pins = [RawKeyDemand((public_key_info(key.public_key()),)) for key in keys]
    sides = [
        {"own_auth": (RawKeyAuth(keys[side]),), "peer_auth": (pins[1 - side],)} for side in (0, 1)
    ]
    return make_pair(a=sides[0], b=sides[1])


@pytest.mark.rfc("7427", "4", "MUST", "notify-form")
def test_the_notification_lists_hashes_in_two_octets_each():
    pair = raw_pair()
    pair.connect()
    for sent in pair.sent[:2]:
        notify = decode_message(ike_octets(sent)).notify(KIND)
        assert (notify.protocol, notify.spi) == (0, b"")
        assert notify.data == bytes.fromhex("0002 0003 0004 0005")
    pair.agreed()


@pytest.mark.rfc("7427", "4", "MUST NOT", "unasked-hash")
def test_a_hash_that_was_not_named_is_refused():
    """SHA-1 is not among ours, so that no identifier with it is known."""
    assert {scheme.hash_id for scheme in SCHEMES} <= set(OWN_HASHES)
    assert HashAlgorithmId.SHA1 not in OWN_HASHES
    for identifier in ("300d06092a864886f70d0101050500", "300906072a8648ce3d0401"):
        octets = bytes.fromhex(identifier)
        with pytest.raises(SignatureFailure):
            decode_digital_signature(bytes([len(octets)]) + octets + bytes(256))
