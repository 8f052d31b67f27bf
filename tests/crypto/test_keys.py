"""Keys from a seed: the same each time, and whole."""

from random import Random

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ipseclab.crypto.keys import KEY_KINDS, RSA_EXPONENT, rsa_key
from ipseclab.crypto.signature import public_key_info, weakness


@pytest.mark.parametrize("kind", [k for k in KEY_KINDS if not k.startswith("rsa")])
def test_same_seed_same_key(kind):
    first, second = (
        KEY_KINDS[kind](Random(3)).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        for _ in range(2)
    )
    assert first == second
    other = KEY_KINDS[kind](Random(4)).public_key()
    assert public_key_info(other) != public_key_info(KEY_KINDS[kind](Random(3)).public_key())
    assert not weakness(other)


def test_rsa_key_is_whole_and_repeatable():
    """The library checks that the numbers belong together; the size is exact."""
    key = rsa_key(1024, Random(1))
    assert key.key_size == 1024
    assert key.private_numbers() == rsa_key(1024, Random(1)).private_numbers()
    numbers = key.private_numbers()
    assert numbers.public_numbers.e == RSA_EXPONENT
    assert numbers.p != numbers.q
    for prime in (numbers.p, numbers.q):
        assert prime.bit_length() == 512
        assert pow(2, prime - 1, prime) == 1
