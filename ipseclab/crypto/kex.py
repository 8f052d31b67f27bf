"""Key exchange methods of IKEv2: X25519 and X448 (RFC 8031), ECP (RFC 5903), Brainpool (RFC 6954),
MODP (RFC 2409, RFC 3526, RFC 5114), ML-KEM (draft-ietf-ipsecme-ikev2-mlkem).

A method is used in three steps, since a KEM's two ends do not do the same: the initiator generates,
the responder answers, the initiator agrees. A peer's public value is checked as RFC 6989 and FIPS
203 ask before it is used. MODP is Python's own `pow`, since pyca/cryptography gives up finite-field
Diffie-Hellman; `pow` is not constant-time, which a lab can bear and a product could not.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM1024PrivateKey,
)
from cryptography.hazmat.primitives.asymmetric.x448 import X448PrivateKey, X448PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipseclab.crypto import mlkem, subgroups
from ipseclab.errors import KeyExchangeFailure
from ipseclab.registry import KeMethod

X25519_SIZE = 32
X448_SIZE = 56
UNCOMPRESSED_POINT = b"\x04"
"""SEC 1's prefix of a point written x | y; IKE leaves it out (RFC 5903 section 7)."""


class KeyExchangePrivate(Protocol):
    """The initiator's half of one key exchange; use it for one exchange only."""

    @property
    def public(self) -> bytes:
        """The KE payload's data."""

    def agree(self, peer_public: bytes) -> bytes:
        """The shared secret, padded to the group's size, of the responder's KE payload's data.

        Raises KeyExchangeFailure."""


class KeyExchange(Protocol):
    """A key exchange method (RFC 7296 transform type 4). Sizes are octets."""

    @property
    def method(self) -> KeMethod:
        """IANA's number."""

    @property
    def public_size(self) -> int:
        """Octets of the initiator's KE data."""

    @property
    def reply_size(self) -> int:
        """Octets of the responder's KE data: as many, but for a KEM."""

    @property
    def secret_size(self) -> int:
        """Octets of a shared secret."""

    def generate(self, rng: random.Random) -> KeyExchangePrivate:
        """The initiator's fresh private value, drawn from `rng` alone."""

    def respond(self, peer_public: bytes, rng: random.Random) -> Answer:
        """The responder's part, drawn from `rng` alone. Raises KeyExchangeFailure."""


class Answer(NamedTuple):
    """What the responder has of an exchange: its KE payload's data, and the shared secret."""

    public: bytes
    secret: bytes


class _DiffieHellman:
    """Both ends do the same: each has a public value, and either agrees on the other's."""

    __slots__ = ()

    @property
    @abstractmethod
    def public_size(self) -> int:
        """Octets of a public value."""

    @property
    def reply_size(self) -> int:
        """As many."""
        return self.public_size

    @abstractmethod
    def generate(self, rng: random.Random) -> KeyExchangePrivate:
        """A fresh private value, drawn from `rng` alone."""

    def respond(self, peer_public: bytes, rng: random.Random) -> Answer:
        """The responder's part. Raises KeyExchangeFailure."""
        own = self.generate(rng)
        return Answer(own.public, own.agree(peer_public))


@dataclass(frozen=True, slots=True)
class Montgomery(_DiffieHellman):
    """X25519 and X448: RFC 8031 on RFC 7748's functions."""

    method: KeMethod
    size: int
    private_key: type[X25519PrivateKey | X448PrivateKey]

    @property
    def public_size(self) -> int:
        """One coordinate."""
        return self.size

    @property
    def secret_size(self) -> int:
        """One coordinate."""
        return self.size

    def generate(self, rng: random.Random) -> MontgomeryPrivate:
        """A fresh private value; the function itself clamps it."""
        return self.private(rng.randbytes(self.size))

    def private(self, octets: bytes) -> MontgomeryPrivate:
        """The private value of those octets."""
        key = self.private_key.from_private_bytes(octets)
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return MontgomeryPrivate(self, key, public)


@dataclass(frozen=True, slots=True)
class MontgomeryPrivate:
    """Our half of an X25519 or X448 exchange."""

    group: Montgomery
    key: X25519PrivateKey | X448PrivateKey
    public: bytes

    def agree(self, peer_public: bytes) -> bytes:
        """The shared secret. Raises KeyExchangeFailure."""
        method = self.group.method
        _check_size(peer_public, self.group.size, method)
        try:
            if isinstance(self.key, X25519PrivateKey):
                return self.key.exchange(X25519PublicKey.from_public_bytes(peer_public))
            return self.key.exchange(X448PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            # A point of small order gives the all-zero secret (RFC 7748 section 6): the library
            # refuses it.
            raise KeyExchangeFailure(f"{method.name} shared secret is all zero") from error


@dataclass(frozen=True, slots=True)
class Ecp(_DiffieHellman):
    """A NIST or Brainpool curve over a prime field: public value x | y, shared secret x."""

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
class Modp(_DiffieHellman):
    """A MODP group: generator 2 and a safe prime (RFC 2409, RFC 3526), or a generator of a subgroup
    of prime order (RFC 5114). Exponents have `exponent_bits`.

    They are twice as long as the group's estimated strength (RFC 3526 section 8), not as long as
    the prime: it is what makes the exchange bearable.
    """

    method: KeMethod
    bits: int
    prime: int
    exponent_bits: int
    generator: int = 2
    order: int | None = None
    """Of the generator, where it is less than (p - 1) / 2."""

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
        public = pow(self.generator, exponent, self.prime)
        return ModpPrivate(self, exponent, public.to_bytes(self.public_size, "big"))


@dataclass(frozen=True, slots=True)
class ModpPrivate:
    """Our half of a MODP exchange."""

    group: Modp
    exponent: int
    public: bytes

    def agree(self, peer_public: bytes) -> bytes:
        """The shared secret. Raises KeyExchangeFailure unless 1 < public < p - 1 (RFC 6989 2.1),
        and in a subgroup public^q = 1 (section 2.2)."""
        group = self.group
        _check_size(peer_public, group.public_size, group.method)
        peer = int.from_bytes(peer_public, "big")
        if not 1 < peer < group.prime - 1:
            raise KeyExchangeFailure(f"{group.method.name} public value outside 2..p-2")
        if group.order is not None and pow(peer, group.order, group.prime) != 1:
            raise KeyExchangeFailure(f"{group.method.name} public value outside the subgroup")
        return pow(peer, self.exponent, group.prime).to_bytes(group.secret_size, "big")


@dataclass(frozen=True, slots=True)
class MlKem:
    """ML-KEM (FIPS 203): the initiator sends a public key, the responder a ciphertext.

    `library` is pyca/cryptography's implementation for the initiator's part, where it has one.
    Encapsulation is `crypto/mlkem.py`'s: the library's cannot be told what to draw.
    """

    method: KeMethod
    parameters: mlkem.ParameterSet
    library: type[MLKEM768PrivateKey | MLKEM1024PrivateKey] | None = None
    secret_size: int = mlkem.MESSAGE_SIZE

    @property
    def public_size(self) -> int:
        """The encapsulation key's."""
        return self.parameters.public_size

    @property
    def reply_size(self) -> int:
        """The ciphertext's."""
        return self.parameters.ciphertext_size

    def generate(self, rng: random.Random) -> MlKemPrivate:
        """A fresh key pair, of a seed."""
        return self.private(rng.randbytes(mlkem.SEED_SIZE))

    def private(self, seed: bytes) -> MlKemPrivate:
        """The key pair of that seed, d | z."""
        if self.library is None:
            return MlKemPrivate(self, seed, mlkem.public_key(self.parameters, seed))
        key = self.library.from_seed_bytes(seed)
        return MlKemPrivate(self, seed, key.public_key().public_bytes_raw(), key)

    def respond(self, peer_public: bytes, rng: random.Random) -> Answer:
        """Encapsulate. Raises KeyExchangeFailure for a malformed public key (section 7.2)."""
        message = rng.randbytes(mlkem.MESSAGE_SIZE)
        _check_size(peer_public, self.public_size, self.method)
        try:
            secret, ciphertext = mlkem.encapsulate(self.parameters, peer_public, message)
        except ValueError as error:
            raise KeyExchangeFailure(str(error)) from error
        return Answer(ciphertext, secret)


@dataclass(frozen=True, slots=True)
class MlKemPrivate:
    """The initiator's half of an ML-KEM exchange."""

    kem: MlKem
    seed: bytes = field(repr=False)
    public: bytes
    key: MLKEM768PrivateKey | MLKEM1024PrivateKey | None = None

    def agree(self, peer_public: bytes) -> bytes:
        """The shared secret of a ciphertext; of one that was tampered with it is another one, and
        AUTH finds it out. Raises KeyExchangeFailure for one of a wrong size."""
        _check_size(peer_public, self.kem.reply_size, self.kem.method)
        if self.key is None:
            return mlkem.decapsulate(self.kem.parameters, self.seed, peer_public)
        return self.key.decapsulate(peer_public)


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
    """The definition of the primes in RFC 2409 and RFC 3526:
    2^n - 2^(n-64) - 1 + 2^64 ([2^(n-130) pi] + k)."""
    middle = _scaled_pi(bits - 130) + offset
    return Modp(method, bits, (1 << bits) - (1 << (bits - 64)) - 1 + (middle << 64), exponent_bits)


def _subgroup(method: KeMethod, numbers: subgroups.Subgroup) -> Modp:
    """Exponents one bit shorter than the order, and so below it."""
    bits, exponent_bits = numbers.prime.bit_length(), numbers.order.bit_length() - 1
    return Modp(method, bits, numbers.prime, exponent_bits, numbers.generator, numbers.order)


# The orders of the NIST curves (FIPS 186-4 appendix D.1.2).
_ORDER_P192 = (1 << 192) - 0x662107C9EB94364E4B2DD7CF
_ORDER_P224 = (1 << 224) - 0xE95D1F470FC1EC22D6BAA3A3D5C3
_ORDER_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ORDER_P384 = (1 << 384) - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D
_ORDER_P521 = (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7
# The orders of the Brainpool curves (RFC 5639 sections 3.4, 3.6 and 3.7).
_ORDER_BP256 = 0xA9FB57DBA1EEA9BC3E660A909D838D718C397AA3B561A6F7901E0E82974856A7
_ORDER_BP384 = int(
    "8cb91e82a3386d280f5d6f7e50e641df152f7109ed5456b3"
    "1f166e6cac0425a7cf3ab6af6b7fc3103b883202e9046565",
    16,
)
_ORDER_BP512 = int(
    "aadd9db8dbe9c48b3fd4e6ae33c9fc07cb308db3b3c9d20ed6639cca70330870"
    "553e5c414ca92619418661197fac10471db1d381085ddaddb58796829ca90069",
    16,
)

KE_METHODS: dict[KeMethod, KeyExchange] = {
    exchange.method: exchange
    for exchange in (
        Montgomery(KeMethod.CURVE25519, X25519_SIZE, X25519PrivateKey),
        Montgomery(KeMethod.CURVE448, X448_SIZE, X448PrivateKey),
        Ecp(KeMethod.ECP_192, ec.SECP192R1(), _ORDER_P192),
        Ecp(KeMethod.ECP_224, ec.SECP224R1(), _ORDER_P224),
        Ecp(KeMethod.ECP_256, ec.SECP256R1(), _ORDER_P256),
        Ecp(KeMethod.ECP_384, ec.SECP384R1(), _ORDER_P384),
        Ecp(KeMethod.ECP_521, ec.SECP521R1(), _ORDER_P521),
        Ecp(KeMethod.BRAINPOOL_P256R1, ec.BrainpoolP256R1(), _ORDER_BP256),
        Ecp(KeMethod.BRAINPOOL_P384R1, ec.BrainpoolP384R1(), _ORDER_BP384),
        Ecp(KeMethod.BRAINPOOL_P512R1, ec.BrainpoolP512R1(), _ORDER_BP512),
        _modp(KeMethod.MODP_768, 768, offset=149686, exponent_bits=200),
        _modp(KeMethod.MODP_1024, 1024, offset=129093, exponent_bits=240),
        _modp(KeMethod.MODP_1536, 1536, offset=741804, exponent_bits=260),
        _modp(KeMethod.MODP_2048, 2048, offset=124476, exponent_bits=320),
        _modp(KeMethod.MODP_3072, 3072, offset=1690314, exponent_bits=420),
        _modp(KeMethod.MODP_4096, 4096, offset=240904, exponent_bits=480),
        _modp(KeMethod.MODP_6144, 6144, offset=929484, exponent_bits=540),
        _modp(KeMethod.MODP_8192, 8192, offset=4743158, exponent_bits=620),
        _subgroup(KeMethod.MODP_1024_160, subgroups.MODP_1024_160),
        _subgroup(KeMethod.MODP_2048_224, subgroups.MODP_2048_224),
        _subgroup(KeMethod.MODP_2048_256, subgroups.MODP_2048_256),
        MlKem(KeMethod.ML_KEM_512, mlkem.ML_KEM_512),
        MlKem(KeMethod.ML_KEM_768, mlkem.ML_KEM_768, MLKEM768PrivateKey),
        MlKem(KeMethod.ML_KEM_1024, mlkem.ML_KEM_1024, MLKEM1024PrivateKey),
    )
}

WEAK_METHODS = (
    *(KeMethod.MODP_768, KeMethod.MODP_1024, KeMethod.MODP_1536, KeMethod.ECP_192),
    *(KeMethod.MODP_1024_160, KeMethod.MODP_2048_224, KeMethod.MODP_2048_256),
)
"""RFC 8247 section 2.4: MUST NOT or SHOULD NOT, and a curve of 96 bits' strength. A topology's
connection has to say `allow_weak: true`."""
