"""ML-KEM in plain Python against pyca/cryptography's, and what FIPS 203 asks to be checked."""

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey

from ipseclab.crypto import mlkem
from ipseclab.crypto.kex import KE_METHODS, MlKem
from ipseclab.errors import KeyExchangeFailure

LIBRARY = [
    (mlkem.ML_KEM_768, MLKEM768PrivateKey),
    (mlkem.ML_KEM_1024, MLKEM1024PrivateKey),
]
in_library = pytest.mark.parametrize(("parameters", "library"), LIBRARY, ids=lambda p: str(p)[:30])
each_set = pytest.mark.parametrize(
    "parameters", [mlkem.ML_KEM_512, mlkem.ML_KEM_768, mlkem.ML_KEM_1024], ids=lambda p: p.name
)
each_method = pytest.mark.parametrize(
    "kem", [e for e in KE_METHODS.values() if isinstance(e, MlKem)], ids=lambda e: e.method.name
)


@in_library
def test_same_keys_and_secrets_as_the_library(
    parameters: mlkem.ParameterSet, library: type[MLKEM768PrivateKey | MLKEM1024PrivateKey]
) -> None:
    rng = random.Random(1)
    for _ in range(4):
        seed = rng.randbytes(mlkem.SEED_SIZE)
        theirs = library.from_seed_bytes(seed)
        public = theirs.public_key().public_bytes_raw()
        assert mlkem.public_key(parameters, seed) == public
        secret, ciphertext = mlkem.encapsulate(parameters, public, rng.randbytes(32))
        assert theirs.decapsulate(ciphertext) == secret
        secret, ciphertext = theirs.public_key().encapsulate()
        assert mlkem.decapsulate(parameters, seed, ciphertext) == secret


@in_library
def test_a_ciphertext_that_nobody_made_is_rejected_as_the_library_does(
    parameters: mlkem.ParameterSet, library: type[MLKEM768PrivateKey | MLKEM1024PrivateKey]
) -> None:
    rng = random.Random(2)
    seed = rng.randbytes(mlkem.SEED_SIZE)
    public = mlkem.public_key(parameters, seed)
    secret, ciphertext = mlkem.encapsulate(parameters, public, rng.randbytes(32))
    for bad in (rng.randbytes(len(ciphertext)), bytes([ciphertext[0] ^ 1]) + ciphertext[1:]):
        rejected = mlkem.decapsulate(parameters, seed, bad)
        assert rejected == library.from_seed_bytes(seed).decapsulate(bad)
        assert rejected != secret


@each_set
def test_both_ends_have_the_secret(parameters: mlkem.ParameterSet) -> None:
    rng = random.Random(3)
    seed = rng.randbytes(mlkem.SEED_SIZE)
    public = mlkem.public_key(parameters, seed)
    secret, ciphertext = mlkem.encapsulate(parameters, public, rng.randbytes(32))
    assert (len(public), len(ciphertext)) == (parameters.public_size, parameters.ciphertext_size)
    assert mlkem.decapsulate(parameters, seed, ciphertext) == secret
    with pytest.raises(ValueError, match=f"ciphertext of {len(ciphertext) - 1} octets"):
        mlkem.decapsulate(parameters, seed, ciphertext[:-1])


def test_sizes_are_those_of_fips_203() -> None:
    sets = (mlkem.ML_KEM_512, mlkem.ML_KEM_768, mlkem.ML_KEM_1024)
    sizes = [(p.public_size, p.ciphertext_size) for p in sets]
    assert sizes == [(800, 768), (1184, 1088), (1568, 1568)]


@each_method
def test_a_public_key_with_a_number_not_reduced_is_refused(kem: MlKem) -> None:
    public = kem.generate(random.Random(4)).public
    for bad in (b"\xff\xff" + public[2:], public[:-34] + b"\xff\xff" + public[-32:]):
        with pytest.raises(KeyExchangeFailure, match="coefficient not below 3329"):
            kem.respond(bad, random.Random(5))


@each_method
def test_a_changed_ciphertext_gives_another_secret(kem: MlKem) -> None:
    own = kem.generate(random.Random(6))
    answer = kem.respond(own.public, random.Random(7))
    changed = bytes([answer.public[0] ^ 1]) + answer.public[1:]
    assert own.agree(changed) not in (answer.secret, own.agree(answer.public))
