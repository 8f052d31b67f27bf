"""Signatures of IKEv2: the schemes of RFC 7427 by their AlgorithmIdentifier, and the AUTH methods
that were before it (RFC 7296 section 3.8, RFC 4754).

RFC 8420 adds EdDSA; ML-DSA follows draft-ietf-ipsecme-ikev2-pqc-auth and is experimental. One key
signs the same octets alike each time with PKCS#1 v1.5, EdDSA and ECDSA (RFC 6979). RSASSA-PSS salts
and ML-DSA hedges with the operating system's randomness, which the library offers no way round:
there the octets of AUTH differ from run to run, but never their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipseclab.errors import SignatureFailure
from ipseclab.registry import AuthMethod, HashAlgorithmId

MIN_RSA_BITS = 2048
"""RFC 8247 section 4.1."""
MAX_RSA_BITS = 8192
MAX_RSA_EXPONENT = 0xFFFFFFFF
"""Own limits: what a peer's key may cost us to verify with."""
MAX_IDENTIFIER_SIZE = 0xFF
"""RFC 7427 section 3: one octet holds the AlgorithmIdentifier's length."""

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
PublicKey = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
PRIVATE_KEYS = (
    rsa.RSAPrivateKey,
    ec.EllipticCurvePrivateKey,
    ed25519.Ed25519PrivateKey,
    ed448.Ed448PrivateKey,
    mldsa.MLDSA44PrivateKey,
    mldsa.MLDSA65PrivateKey,
    mldsa.MLDSA87PrivateKey,
)
PUBLIC_KEYS = (
    rsa.RSAPublicKey,
    ec.EllipticCurvePublicKey,
    ed25519.Ed25519PublicKey,
    ed448.Ed448PublicKey,
    mldsa.MLDSA44PublicKey,
    mldsa.MLDSA65PublicKey,
    mldsa.MLDSA87PublicKey,
)

_Raw = (
    ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
_Hash = hashes.SHA1 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512


class SignatureScheme(Protocol):
    """A way to sign, as an AUTH payload names it."""

    @property
    def name(self) -> str:
        """For people and files: `rsa-pss-sha256`."""

    @property
    def identifier(self) -> bytes:
        """The AlgorithmIdentifier, DER."""

    @property
    def hash_id(self) -> HashAlgorithmId:
        """What the peer must have announced (RFC 7427 section 4)."""

    @property
    def deterministic(self) -> bool:
        """True when the same key and octets give the same signature."""

    @property
    def experimental(self) -> bool:
        """True when no RFC says how IKEv2 uses it."""

    def fits(self, key: PublicKey) -> bool:
        """True for a key that can verify it."""

    def sign(self, key: PrivateKey, octets: bytes) -> bytes:
        """The signature. Raises SignatureFailure for a key of another kind."""

    def verify(self, key: PublicKey, signature: bytes, octets: bytes) -> None:
        """Raises SignatureFailure."""


def _der(tag: int, content: bytes) -> bytes:
    """One DER element; all here are shorter than 128 octets."""
    return bytes([tag, len(content)]) + content


def _oid(octets: str) -> bytes:
    return _der(0x06, bytes.fromhex(octets))


_NULL = _der(0x05, b"")
_HASHES: Mapping[HashAlgorithmId, tuple[_Hash, str]] = {
    HashAlgorithmId.SHA2_256: (hashes.SHA256(), "608648016503040201"),
    HashAlgorithmId.SHA2_384: (hashes.SHA384(), "608648016503040202"),
    HashAlgorithmId.SHA2_512: (hashes.SHA512(), "608648016503040203"),
}
_SHA2 = tuple(_HASHES)


def _pss_identifier(hash_id: HashAlgorithmId, *, null: bool) -> bytes:
    """RFC 4055 section 3.1: hash, MGF1 of the same hash, a salt of the hash's length.

    A hash's parameters may be NULL or left out (section 2.1)."""
    algorithm, oid = _HASHES[hash_id]
    digest = _der(0x30, _oid(oid) + (_NULL if null else b""))
    mask = _der(0x30, _oid("2a864886f70d010108") + digest)
    salt = _der(0x02, bytes([algorithm.digest_size]))
    parameters = _der(0x30, _der(0xA0, digest) + _der(0xA1, mask) + _der(0xA2, salt))
    return _der(0x30, _oid("2a864886f70d01010a") + parameters)


@dataclass(frozen=True, slots=True)
class RsaScheme:
    """RSASSA-PSS, or RSASSA-PKCS1-v1_5 (RFC 8017)."""

    name: str
    identifier: bytes
    hash_id: HashAlgorithmId
    algorithm: _Hash
    pss: bool
    experimental: bool = False

    @property
    def deterministic(self) -> bool:
        """PSS has a random salt."""
        return not self.pss

    def fits(self, key: PublicKey) -> bool:
        """Any RSA key."""
        return isinstance(key, rsa.RSAPublicKey)

    def sign(self, key: PrivateKey, octets: bytes) -> bytes:
        """As many octets as the modulus has. Raises SignatureFailure."""
        if not isinstance(key, rsa.RSAPrivateKey):
            raise SignatureFailure(f"{self.name} with a key of another kind")
        return key.sign(octets, self._padding(), self.algorithm)

    def verify(self, key: PublicKey, signature: bytes, octets: bytes) -> None:
        """Raises SignatureFailure."""
        if not isinstance(key, rsa.RSAPublicKey):
            raise SignatureFailure(f"{self.name} with a key of another kind")
        try:
            key.verify(signature, octets, self._padding(), self.algorithm)
        except InvalidSignature as error:
            raise SignatureFailure(f"{self.name} signature does not verify") from error

    def _padding(self) -> padding.PSS | padding.PKCS1v15:
        if not self.pss:
            return padding.PKCS1v15()
        return padding.PSS(padding.MGF1(self.algorithm), self.algorithm.digest_size)


@dataclass(frozen=True, slots=True)
class EcdsaScheme:
    """ECDSA, deterministic (RFC 6979); RFC 7427 lets any curve go with any hash.

    A signature is DER's r and s, or with a `curve` the two put together at their full size, as in
    the AUTH methods of RFC 4754."""

    name: str
    identifier: bytes
    hash_id: HashAlgorithmId
    algorithm: _Hash
    curve: str = ""
    deterministic: bool = True
    experimental: bool = False

    def fits(self, key: PublicKey) -> bool:
        """A key on a NIST curve of 256 bits or more, or on the one curve of the method."""
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        return key.curve.name == self.curve if self.curve else key.curve.name in CURVES

    def sign(self, key: PrivateKey, octets: bytes) -> bytes:
        """Raises SignatureFailure."""
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not self.fits(key.public_key()):
            raise SignatureFailure(f"{self.name} with a key of another kind")
        signature = key.sign(octets, ec.ECDSA(self.algorithm, deterministic_signing=True))
        if not self.curve:
            return signature
        size = -(-key.curve.key_size // 8)
        return b"".join(part.to_bytes(size, "big") for part in decode_dss_signature(signature))

    def verify(self, key: PublicKey, signature: bytes, octets: bytes) -> None:
        """Raises SignatureFailure."""
        if not isinstance(key, ec.EllipticCurvePublicKey) or not self.fits(key):
            raise SignatureFailure(f"{self.name} with a key of another kind")
        if self.curve:
            size = -(-key.curve.key_size // 8)
            if len(signature) != 2 * size:
                raise SignatureFailure(f"{self.name}: {len(signature)} octets, must be {2 * size}")
            parts = (
                int.from_bytes(signature[:size], "big"),
                int.from_bytes(signature[size:], "big"),
            )
            signature = encode_dss_signature(*parts)
        try:
            key.verify(signature, octets, ec.ECDSA(self.algorithm))
        except InvalidSignature as error:
            raise SignatureFailure(f"{self.name} signature does not verify") from error


@dataclass(frozen=True, slots=True)
class PlainScheme:
    """A scheme that takes the octets as they are: EdDSA (RFC 8420), ML-DSA with no context."""

    name: str
    identifier: bytes
    private: type[_Raw]
    public: type[PublicKey]
    deterministic: bool = True
    experimental: bool = False
    hash_id: HashAlgorithmId = HashAlgorithmId.IDENTITY

    def fits(self, key: PublicKey) -> bool:
        """A key of just that kind."""
        return isinstance(key, self.public)

    def sign(self, key: PrivateKey, octets: bytes) -> bytes:
        """Raises SignatureFailure."""
        if not isinstance(key, self.private):
            raise SignatureFailure(f"{self.name} with a key of another kind")
        return key.sign(octets)

    def verify(self, key: PublicKey, signature: bytes, octets: bytes) -> None:
        """Raises SignatureFailure."""
        if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) or not self.fits(key):
            raise SignatureFailure(f"{self.name} with a key of another kind")
        try:
            key.verify(signature, octets)
        except InvalidSignature as error:
            raise SignatureFailure(f"{self.name} signature does not verify") from error


def _bits(hash_id: HashAlgorithmId) -> str:
    return hash_id.name.removeprefix("SHA2_")


def _pss(hash_id: HashAlgorithmId) -> RsaScheme:
    identifier = _pss_identifier(hash_id, null=True)
    name = f"rsa-pss-sha{_bits(hash_id)}"
    return RsaScheme(name, identifier, hash_id, _HASHES[hash_id][0], pss=True)


def _pkcs1(hash_id: HashAlgorithmId, oid: str) -> RsaScheme:
    identifier = _der(0x30, _oid(oid) + _NULL)
    name = f"rsa-pkcs1-sha{_bits(hash_id)}"
    return RsaScheme(name, identifier, hash_id, _HASHES[hash_id][0], pss=False)


def _ecdsa(hash_id: HashAlgorithmId, oid: str) -> EcdsaScheme:
    name = f"ecdsa-sha{_bits(hash_id)}"
    return EcdsaScheme(name, _der(0x30, _oid(oid)), hash_id, _HASHES[hash_id][0])


CURVES: Mapping[str, HashAlgorithmId] = {
    "secp256r1": HashAlgorithmId.SHA2_256,
    "secp384r1": HashAlgorithmId.SHA2_384,
    "secp521r1": HashAlgorithmId.SHA2_512,
}
"""The curves that may sign, with the hash that is as strong."""

_ED25519 = _der(0x30, _oid("2b6570"))
_ED448 = _der(0x30, _oid("2b6571"))
_ML_DSA_44, _ML_DSA_65, _ML_DSA_87 = (
    _der(0x30, _oid(f"6086480165030403{last:02x}")) for last in (17, 18, 19)
)

SCHEMES: Sequence[SignatureScheme] = (
    *(_pss(hash_id) for hash_id in _SHA2),
    _pkcs1(HashAlgorithmId.SHA2_256, "2a864886f70d01010b"),
    _pkcs1(HashAlgorithmId.SHA2_384, "2a864886f70d01010c"),
    _pkcs1(HashAlgorithmId.SHA2_512, "2a864886f70d01010d"),
    _ecdsa(HashAlgorithmId.SHA2_256, "2a8648ce3d040302"),
    _ecdsa(HashAlgorithmId.SHA2_384, "2a8648ce3d040303"),
    _ecdsa(HashAlgorithmId.SHA2_512, "2a8648ce3d040304"),
    PlainScheme("ed25519", _ED25519, ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey),
    PlainScheme("ed448", _ED448, ed448.Ed448PrivateKey, ed448.Ed448PublicKey),
    PlainScheme(
        "ml-dsa-44", _ML_DSA_44, mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey, False, True
    ),
    PlainScheme(
        "ml-dsa-65", _ML_DSA_65, mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey, False, True
    ),
    PlainScheme(
        "ml-dsa-87", _ML_DSA_87, mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey, False, True
    ),
)
"""In the order of preference among those that fit a key."""

BY_NAME: Mapping[str, SignatureScheme] = {scheme.name: scheme for scheme in SCHEMES}

_BY_IDENTIFIER: Mapping[bytes, SignatureScheme] = {
    **{scheme.identifier: scheme for scheme in SCHEMES},
    **{_pss_identifier(hash_id, null=False): _pss(hash_id) for hash_id in _SHA2},
}

OWN_HASHES: tuple[HashAlgorithmId, ...] = (*_SHA2, HashAlgorithmId.IDENTITY)
"""What SIGNATURE_HASH_ALGORITHMS announces: all that we can verify."""

_OLD_ECDSA: Mapping[AuthMethod, SignatureScheme] = {
    method: EcdsaScheme(
        f"ecdsa-{curve}", b"", CURVES[curve], _HASHES[CURVES[curve]][0], curve=curve
    )
    for method, curve in (
        (AuthMethod.ECDSA_SHA256_P256, "secp256r1"),
        (AuthMethod.ECDSA_SHA384_P384, "secp384r1"),
        (AuthMethod.ECDSA_SHA512_P521, "secp521r1"),
    )
}
_OLD_RSA_SHA1 = RsaScheme("rsa-pkcs1-sha1", b"", HashAlgorithmId.SHA1, hashes.SHA1(), pss=False)
OLD_METHODS: Mapping[AuthMethod, tuple[SignatureScheme, ...]] = {
    AuthMethod.RSA_DIGITAL_SIGNATURE: (
        BY_NAME["rsa-pkcs1-sha256"],
        BY_NAME["rsa-pkcs1-sha384"],
        BY_NAME["rsa-pkcs1-sha512"],
        _OLD_RSA_SHA1,
    ),
    **{method: (scheme,) for method, scheme in _OLD_ECDSA.items()},
}
"""AUTH methods that name a scheme by themselves. Method 1 leaves the hash to the signer (RFC 7296
section 3.8): SHA-1 is what peers that know no other expect, and what we send with it."""


def encode_hashes(hash_ids: Sequence[HashAlgorithmId]) -> bytes:
    """The data of SIGNATURE_HASH_ALGORITHMS (RFC 7427 section 4)."""
    return b"".join(int(hash_id).to_bytes(2, "big") for hash_id in hash_ids)


def decode_hashes(data: bytes) -> tuple[HashAlgorithmId, ...]:
    """The hashes that a peer announces; those unknown are passed over, as is an odd octet."""
    numbers = (int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data) - 1, 2))
    return tuple(dict.fromkeys(found for n in numbers if (found := HashAlgorithmId(n)).known))


def choose_scheme(
    key: PublicKey, peer_hashes: Sequence[HashAlgorithmId], wanted: Sequence[str] = ()
) -> SignatureScheme:
    """How to sign with that key for a peer that announced those hashes; `wanted` names schemes, the
    best first, all when it is empty. Raises SignatureFailure."""
    named = [BY_NAME[name] for name in wanted] if wanted else list(SCHEMES)
    fitting = [scheme for scheme in named if scheme.fits(key)]
    usable = [scheme for scheme in fitting if scheme.hash_id in peer_hashes]
    if not fitting:
        raise SignatureFailure("no signature scheme for this kind of key")
    if not usable:
        announced = ", ".join(item.name for item in peer_hashes) or "none"
        names = ", ".join(scheme.name for scheme in fitting)
        raise SignatureFailure(f"peer's hashes are {announced}, none fits {names}")
    if not wanted and isinstance(key, ec.EllipticCurvePublicKey):
        as_strong = CURVES[key.curve.name]
        usable.sort(key=lambda scheme: scheme.hash_id != as_strong)
    return usable[0]


def old_method(key: PublicKey) -> tuple[AuthMethod, SignatureScheme]:
    """How to sign for a peer that does not know RFC 7427. Raises SignatureFailure."""
    if isinstance(key, rsa.RSAPublicKey):
        return AuthMethod.RSA_DIGITAL_SIGNATURE, _OLD_RSA_SHA1
    for method, scheme in _OLD_ECDSA.items():
        if scheme.fits(key):
            return method, scheme
    raise SignatureFailure("peer has no SIGNATURE_HASH_ALGORITHMS, which this kind of key needs")


def encode_digital_signature(scheme: SignatureScheme, signature: bytes) -> bytes:
    """Authentication Data of method 14 (RFC 7427 section 3)."""
    return bytes([len(scheme.identifier)]) + scheme.identifier + signature


def decode_digital_signature(data: bytes) -> tuple[SignatureScheme, bytes]:
    """The scheme and the signature in Authentication Data of method 14. Raises SignatureFailure."""
    size = data[0] if data else 0
    identifier = data[1 : 1 + size]
    scheme = _BY_IDENTIFIER.get(identifier)
    if len(identifier) != size or scheme is None:
        raise SignatureFailure(f"unknown AlgorithmIdentifier {identifier.hex() or '(empty)'}")
    return scheme, data[1 + size :]


def weakness(key: PublicKey) -> str:
    """Why that key must not be trusted, "" when nothing is wrong with it."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            return f"RSA key of {key.key_size} bits, at least {MIN_RSA_BITS} wanted"
        if key.key_size > MAX_RSA_BITS:
            return f"RSA key of {key.key_size} bits, at most {MAX_RSA_BITS} wanted"
        if key.public_numbers().e > MAX_RSA_EXPONENT:
            return "RSA exponent of more than 32 bits"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in CURVES:
        return f"EC key on {key.curve.name}, one of {', '.join(CURVES)} wanted"
    return ""


def public_key_info(key: PublicKey) -> bytes:
    """The SubjectPublicKeyInfo, DER (RFC 7670 section 3)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
