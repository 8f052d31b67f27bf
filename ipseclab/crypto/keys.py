"""Private keys that sign, drawn from a given generator: the same seed makes the same key.

Kinds have the names that files use. RSA primes are found here (FIPS 186-5 appendix A.1.3 in spirit:
probable primes by Miller and Rabin), since the library takes randomness from the system alone; as
with `crypto.kex`, not constant-time, which a lab can bear.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from math import gcd, isqrt, prod

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa

from ipseclab.crypto.signature import PrivateKey

RSA_EXPONENT = 65537
MILLER_RABIN_ROUNDS = 8
"""With candidates at random, far less than 2^-100 of composites pass (FIPS 186-5 table B.1)."""
MIN_PRIME_DISTANCE = 100
"""Bits by which the primes' difference may be shorter than they (FIPS 186-5 appendix A.1.3)."""
SMALL_PRIMES = tuple(n for n in range(3, 4000, 2) if all(n % d for d in range(3, isqrt(n) + 1, 2)))
_SMALL_PRODUCT = prod(SMALL_PRIMES)

Generate = Callable[[random.Random], PrivateKey]


def rsa_key(bits: int, rng: random.Random) -> rsa.RSAPrivateKey:
    """An RSA key with a modulus of exactly `bits` bits."""
    half = bits // 2
    p = _prime(half, rng)
    q = _prime(half, rng)
    while abs(p - q).bit_length() <= half - MIN_PRIME_DISTANCE:
        q = _prime(half, rng)
    p, q = max(p, q), min(p, q)
    d = pow(RSA_EXPONENT, -1, (p - 1) * (q - 1) // gcd(p - 1, q - 1))
    public = rsa.RSAPublicNumbers(RSA_EXPONENT, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return numbers.private_key()


def _prime(bits: int, rng: random.Random) -> int:
    """A prime of `bits` bits whose two highest are set, so that a product of two is not short."""
    while True:
        candidate = rng.getrandbits(bits) | (3 << (bits - 2)) | 1
        usable = gcd(candidate, _SMALL_PRODUCT) == 1 and gcd(candidate - 1, RSA_EXPONENT) == 1
        if usable and _probably_prime(candidate, rng):
            return candidate


def _probably_prime(number: int, rng: random.Random) -> bool:
    """Miller and Rabin's test of an odd number."""
    odd = number - 1
    twos = (odd & -odd).bit_length() - 1
    odd >>= twos
    for _ in range(MILLER_RABIN_ROUNDS):
        x = pow(rng.randrange(2, number - 1), odd, number)
        if x in (1, number - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % number
            if x == number - 1:
                break
        else:
            return False
    return True


def _rsa(bits: int) -> Generate:
    return lambda rng: rsa_key(bits, rng)


def _ec(curve: ec.EllipticCurve) -> Generate:
    # Every scalar that is a bit shorter than the curve is below its order.
    top = 1 << (curve.key_size - 1)
    return lambda rng: ec.derive_private_key(rng.randrange(1, top), curve)


KEY_KINDS: Mapping[str, Generate] = {
    "rsa-1024": _rsa(1024),  # to show that it is refused
    "rsa-2048": _rsa(2048),
    "rsa-3072": _rsa(3072),
    "rsa-4096": _rsa(4096),
    "ecdsa-p256": _ec(ec.SECP256R1()),
    "ecdsa-p384": _ec(ec.SECP384R1()),
    "ecdsa-p521": _ec(ec.SECP521R1()),
    "ed25519": lambda rng: ed25519.Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)),
    "ed448": lambda rng: ed448.Ed448PrivateKey.from_private_bytes(rng.randbytes(57)),
    "ml-dsa-44": lambda rng: mldsa.MLDSA44PrivateKey.from_seed_bytes(rng.randbytes(32)),
    "ml-dsa-65": lambda rng: mldsa.MLDSA65PrivateKey.from_seed_bytes(rng.randbytes(32)),
    "ml-dsa-87": lambda rng: mldsa.MLDSA87PrivateKey.from_seed_bytes(rng.randbytes(32)),
}
"""What a key file or topology may ask for. ML-DSA is experimental in IKEv2."""
