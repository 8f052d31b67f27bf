"""Key exchange methods of IKEv2: X25519 (RFC 8031), ECP groups (RFC 5903), MODP groups (RFC 3526).

A peer's public value is checked as RFC 6989 asks before it is used. MODP is Python's own `pow`,
since pyca/cryptography gives up finite-field Diffie-Hellman; `pow` is not constant-time, which a
lab can bear and a product could not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipseclab.errors import KeyExchangeFailure
from ipseclab.registry import KeMethod

X25519_SIZE = 32
UNCOMPRESSED_POINT = b"\x04"
"""SEC 1's prefix of a point written x | y; IKE leaves it out (RFC 5903 section 7)."""


class KeyExchangePrivate(Protocol):
    """Our half of one key exchange; use it for one exchange only."""

    @property
    def public(self) -> bytes:
        """The KE payload's data."""

    def agree(self, peer_public: bytes) -> bytes:
        """The shared secret, padded to the group's size. Raises KeyExchangeFailure."""


class KeyExchange(Protocol):
    """A key exchange method (RFC 7296 transform type 4). Sizes are octets."""

    @property
    def method(self) -> KeMethod:
        """IANA's number."""

    @property
    def public_size(self) -> int:
        """Octets of a public value on the wire."""

    @property
    def secret_size(self) -> int:
        """Octets of a shared secret."""

    def generate(self, rng: random.Random) -> KeyExchangePrivate:
        """A fresh private value, drawn from `rng` alone."""


@dataclass(frozen=True, slots=True)
class X25519:
    """RFC 8031 on RFC 7748's function."""

    method: KeMethod = KeMethod.CURVE25519
    public_size: int = X25519_SIZE
    secret_size: int = X25519_SIZE

    def generate(self, rng: random.Random) -> X25519Private:
        """A fresh private value; the function itself clamps it."""
        return self.private(rng.randbytes(X25519_SIZE))

    def private(self, octets: bytes) -> X25519Private:
        """The private value of those 32 octets."""
        key = X25519PrivateKey.from_private_bytes(octets)
        return X25519Private(key, key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


@dataclass(frozen=True, slots=True)
class X25519Private:
    """Our half of an X25519 exchange."""

    key: X25519PrivateKey
    public: bytes

    def agree(self, peer_public: bytes) -> bytes:
        """The shared secret. Raises KeyExchangeFailure."""
        _check_size(peer_public, X25519_SIZE, KeMethod.CURVE25519)
        try:
            return self.key.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            # A point of small order gives the all-zero secret (RFC 7748 section 6.1): the library
            # refuses it.
            raise KeyExchangeFailure("CURVE25519 shared secret is all zero") from error


@dataclass(frozen=True, slots=True)
class Ecp:
    """A NIST curve over a prime field (RFC 5903): public value x | y, shared secret x."""

    method: KeMethod
    curve: ec.EllipticCurve
    order: int

    @property
    def coordinate_size(self) -> int:
        """Octets of a coordinate: 66 for the 521-bit curve."""
        return -(-self.curve.key_size // 8)

    @property
    def public_size(self) -> int:
        """Two coordinates."""
        return 2 * self.coordinate_size

    @property
    def secret_size(self) -> int:
        """One coordinate."""
        return self.coordinate_size

    def generate(self, rng: random.Random) -> EcpPrivate:
        """A fresh private value, uniform in [1, order - 1]."""
        return self.private(rng.randrange(1, self.order))

    def private(self, scalar: int) -> EcpPrivate:
        """The private value of that scalar."""
        key = ec.derive_private_key(scalar, self.curve)
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return EcpPrivate(self, key, point[len(UNCOMPRESSED_POINT) :])


@dataclass(frozen=True, slots=True)
class EcpPrivate:
    """Our half of an ECP exchange."""

    group: Ecp
    key: ec.EllipticCurvePrivateKey
    public: bytes

    def agree(self, peer_public: bytes) -> bytes:
        """The shared secret. Raises KeyExchangeFailure for a point off the curve (RFC 6989 2.3)."""
        _check_size(peer_public, self.group.public_size, self.group.method)
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(
                self.group.curve, UNCOMPRESSED_POINT + peer_public
            )
        except ValueError as error:
            raise KeyExchangeFailure(f"{self.group.method.name} point not on the curve") from error
        return self.key.exchange(ec.ECDH(), peer)


@dataclass(frozen=True, slots=True)
class Modp:
    """A MODP group (RFC 3526): generator 2, a safe prime, exponents of `exponent_bits`.

    Exponents are twice as long as the group's estimated strength (RFC 3526 section 8), not as long
    as the prime: it is what makes the exchange bearable.
    """

    method: KeMethod
    bits: int
    prime: int
    exponent_bits: int

    @property
    def public_size(self) -> int:
        """As long as the prime, zero octets in front (RFC 7296 section 3.4)."""
        return self.bits // 8

    @property
    def secret_size(self) -> int:
        """As long as the prime, zero octets in front (RFC 7296 section 2.14)."""
        return self.bits // 8

    def generate(self, rng: random.Random) -> ModpPrivate:
        """A fresh private value; its top bit is set, so that it has its full length."""
        return self.private(rng.getrandbits(self.exponent_bits) | 1 << (self.exponent_bits - 1))

    def private(self, exponent: int) -> ModpPrivate:
        """The private value of that exponent."""
        public = pow(2, exponent, self.prime)
        return ModpPrivate(self, exponent, public.to_bytes(self.public_size, "big"))


@dataclass(frozen=True, slots=True)
class ModpPrivate:
    """Our half of a MODP exchange."""

    group: Modp
    exponent: int
    public: bytes

    def agree(self, peer_public: bytes) -> bytes:
        """The shared secret. Raises KeyExchangeFailure unless 1 < public < p - 1 (RFC 6989 2.1)."""
        group = self.group
        _check_size(peer_public, group.public_size, group.method)
        peer = int.from_bytes(peer_public, "big")
        if not 1 < peer < group.prime - 1:
            raise KeyExchangeFailure(f"{group.method.name} public value outside 2..p-2")
        return pow(peer, self.exponent, group.prime).to_bytes(group.secret_size, "big")


def _check_size(public: bytes, size: int, method: KeMethod) -> None:
    if len(public) != size:
        raise KeyExchangeFailure(f"KE data {len(public)} octets, {method.name} needs {size}")


def _scaled_pi(bits: int) -> int:
    """floor(2**bits * pi), by Machin's formula: pi = 16 arctan(1/5) - 4 arctan(1/239)."""
    guard = 64
    one = 1 << (bits + guard)
    return (16 * _scaled_arctan(5, one) - 4 * _scaled_arctan(239, one)) >> guard


def _scaled_arctan(inverse: int, one: int) -> int:
    """About one * arctan(1/inverse), by its Taylor series."""
    total, power, divisor, sign = 0, one // inverse, 1, 1
    while power:
        total += sign * (power // divisor)
        power //= inverse * inverse
        divisor += 2
        sign = -sign
    return total


def _modp(method: KeMethod, bits: int, offset: int, exponent_bits: int) -> Modp:
    """RFC 3526's own definition of its primes: 2^n - 2^(n-64) - 1 + 2^64 ([2^(n-130) pi] + k)."""
    middle = _scaled_pi(bits - 130) + offset
    return Modp(method, bits, (1 << bits) - (1 << (bits - 64)) - 1 + (middle << 64), exponent_bits)


# The orders of the NIST curves (FIPS 186-4 appendix D.1.2).
_ORDER_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ORDER_P384 = (1 << 384) - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D
_ORDER_P521 = (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7

KE_METHODS: dict[KeMethod, KeyExchange] = {
    exchange.method: exchange
    for exchange in (
        X25519(),
        Ecp(KeMethod.ECP_256, ec.SECP256R1(), _ORDER_P256),
        Ecp(KeMethod.ECP_384, ec.SECP384R1(), _ORDER_P384),
        Ecp(KeMethod.ECP_521, ec.SECP521R1(), _ORDER_P521),
        _modp(KeMethod.MODP_2048, 2048, offset=124476, exponent_bits=320),
        _modp(KeMethod.MODP_3072, 3072, offset=1690314, exponent_bits=420),
        _modp(KeMethod.MODP_4096, 4096, offset=240904, exponent_bits=480),
    )
}
