"""ML-KEM (FIPS 203) in plain Python: what pyca/cryptography's own does not offer.

The library has ML-KEM-768 and ML-KEM-1024 and draws the randomness of an encapsulation itself; a
simulation that is to be repeated needs it from its own generator, and ML-KEM-512 the library lacks.
Numbers of algorithms are FIPS 203's. Like MODP by `pow`, this is not constant-time: a lab can bear
that, a product could not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha3_256, sha3_512, shake_128, shake_256
from hmac import compare_digest

SEED_SIZE = 64
"""Octets of a private key's seed, d | z."""
MESSAGE_SIZE = 32
"""Octets of randomness that an encapsulation takes, and of the shared secret."""

_N = 256
_Q = 3329
_ROOT = 17
"""A primitive 256th root of unity modulo q (section 4.3)."""
_INVERSE_128 = 3303
_POLYNOMIAL_SIZE = 384
"""Octets of 256 coefficients of 12 bits."""
_SAMPLE_OCTETS = 168 * 4
"""Octets of SHAKE128 with which a sampling starts: enough for 256 coefficients nearly always."""

_Polynomial = list[int]


def _reversed_bits(index: int) -> int:
    return int(f"{index:07b}"[::-1], 2)


_ZETAS = tuple(pow(_ROOT, _reversed_bits(index), _Q) for index in range(128))
_GAMMAS = tuple(pow(_ROOT, 2 * _reversed_bits(index) + 1, _Q) for index in range(128))


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """One of FIPS 203's parameter sets (section 8). Sizes are octets."""

    name: str
    k: int
    eta_1: int
    du: int
    dv: int
    eta_2: int = 2

    @property
    def public_size(self) -> int:
        """Of the encapsulation key."""
        return _POLYNOMIAL_SIZE * self.k + 32

    @property
    def ciphertext_size(self) -> int:
        """Of the ciphertext."""
        return 32 * (self.du * self.k + self.dv)


ML_KEM_512 = ParameterSet("ML-KEM-512", 2, 3, 10, 4)
ML_KEM_768 = ParameterSet("ML-KEM-768", 3, 2, 10, 4)
ML_KEM_1024 = ParameterSet("ML-KEM-1024", 4, 2, 11, 5)


def public_key(parameters: ParameterSet, seed: bytes) -> bytes:
    """The encapsulation key of d | z (algorithm 13, K-PKE.KeyGen)."""
    return _key_pair(parameters, seed)[0]


def encapsulate(parameters: ParameterSet, public: bytes, message: bytes) -> tuple[bytes, bytes]:
    """Shared secret and ciphertext for 32 random octets (algorithms 17 and 20).

    Raises ValueError for an encapsulation key of a wrong size or with coefficients not reduced
    (section 7.2).
    """
    if len(public) != parameters.public_size:
        raise ValueError(f"{parameters.name} public key of {len(public)} octets")
    if any(c >= _Q for c in _unpacked(public[:-32], 12)):
        raise ValueError(f"{parameters.name} public key with a coefficient not below {_Q}")
    secret, randomness = _halves(message + sha3_256(public).digest())
    return secret, _encrypt(parameters, public, message, randomness)


def decapsulate(parameters: ParameterSet, seed: bytes, ciphertext: bytes) -> bytes:
    """The shared secret; for a ciphertext that nobody made one that nobody knows (algorithm 18).

    Raises ValueError for a ciphertext of a wrong size (section 7.3).
    """
    if len(ciphertext) != parameters.ciphertext_size:
        raise ValueError(f"{parameters.name} ciphertext of {len(ciphertext)} octets")
    public, secrets = _key_pair(parameters, seed)
    message = _decrypt(parameters, secrets, ciphertext)
    secret, randomness = _halves(message + sha3_256(public).digest())
    if compare_digest(ciphertext, _encrypt(parameters, public, message, randomness)):
        return secret
    return shake_256(seed[32:] + ciphertext).digest(MESSAGE_SIZE)


def _key_pair(p: ParameterSet, seed: bytes) -> tuple[bytes, list[_Polynomial]]:
    """Encapsulation key, and the secret vector in the transformed domain."""
    rho, sigma = _halves(seed[:32] + bytes([p.k]))
    secrets = [_ntt(_noise(p.eta_1, sigma, number)) for number in range(p.k)]
    errors = [_ntt(_noise(p.eta_1, sigma, p.k + number)) for number in range(p.k)]
    rows = [
        _sum(errors[i], *(_product(_uniform(rho, j, i), secrets[j]) for j in range(p.k)))
        for i in range(p.k)
    ]
    return b"".join(_packed(row, 12) for row in rows) + rho, secrets


def _encrypt(p: ParameterSet, public: bytes, message: bytes, randomness: bytes) -> bytes:
    """Algorithm 14, K-PKE.Encrypt."""
    rho = public[-32:]
    rows = [_unpacked(part, 12) for part in _parts(public[:-32], p.k)]
    masks = [_ntt(_noise(p.eta_1, randomness, number)) for number in range(p.k)]
    u = [
        _sum(
            _noise(p.eta_2, randomness, p.k + i),
            _inverse_ntt(_sum(*(_product(_uniform(rho, i, j), masks[j]) for j in range(p.k)))),
        )
        for i in range(p.k)
    ]
    v = _sum(
        _inverse_ntt(_sum(*map(_product, rows, masks))),
        _noise(p.eta_2, randomness, 2 * p.k),
        _decompressed(_unpacked(message, 1), 1),
    )
    return b"".join(_packed(_compressed(row, p.du), p.du) for row in u) + _packed(
        _compressed(v, p.dv), p.dv
    )


def _decrypt(p: ParameterSet, secrets: list[_Polynomial], ciphertext: bytes) -> bytes:
    """Algorithm 15, K-PKE.Decrypt."""
    split = 32 * p.du * p.k
    u = [
        _ntt(_decompressed(_unpacked(part, p.du), p.du)) for part in _parts(ciphertext[:split], p.k)
    ]
    v = _decompressed(_unpacked(ciphertext[split:], p.dv), p.dv)
    noisy = _inverse_ntt(_sum(*map(_product, secrets, u)))
    return _packed(_compressed([(a - b) % _Q for a, b in zip(v, noisy, strict=True)], 1), 1)


def _halves(octets: bytes) -> tuple[bytes, bytes]:
    """The function G (section 4.1)."""
    digest = sha3_512(octets).digest()
    return digest[:32], digest[32:]


def _noise(eta: int, key: bytes, number: int) -> _Polynomial:
    """A small polynomial: PRF, then SamplePolyCBD (algorithm 8)."""
    octets = shake_256(key + bytes([number])).digest(64 * eta)
    bits = int.from_bytes(octets, "little")
    mask = (1 << eta) - 1
    pairs = (bits >> shift for shift in range(0, 2 * eta * _N, 2 * eta))
    return [((b & mask).bit_count() - (b >> eta & mask).bit_count()) % _Q for b in pairs]


def _uniform(rho: bytes, column: int, row: int) -> _Polynomial:
    """SampleNTT (algorithm 7) of rho and two indices."""
    stream, size = shake_128(rho + bytes([column, row])), _SAMPLE_OCTETS
    while len(found := list(_accepted(stream.digest(size)))) < _N:
        size *= 2
    return found[:_N]


def _accepted(octets: bytes) -> Iterator[int]:
    """The numbers of 12 bits that are below q."""
    for index in range(0, len(octets), 3):
        three = int.from_bytes(octets[index : index + 3], "little")
        for value in (three & 0xFFF, three >> 12):
            if value < _Q:
                yield value


def _ntt(polynomial: _Polynomial) -> _Polynomial:
    """Algorithm 9."""
    f, index, length = list(polynomial), 1, 128
    while length >= 2:
        for start in range(0, _N, 2 * length):
            zeta = _ZETAS[index]
            index += 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % _Q
                f[j + length] = (f[j] - t) % _Q
                f[j] = (f[j] + t) % _Q
        length //= 2
    return f


def _inverse_ntt(transformed: _Polynomial) -> _Polynomial:
    """Algorithm 10."""
    f, index, length = list(transformed), 127, 2
    while length <= 128:
        for start in range(0, _N, 2 * length):
            zeta = _ZETAS[index]
            index -= 1
            for j in range(start, start + length):
                t = f[j]
                f[j] = (t + f[j + length]) % _Q
                f[j + length] = zeta * (f[j + length] - t) % _Q
        length *= 2
    return [c * _INVERSE_128 % _Q for c in f]


def _product(f: _Polynomial, g: _Polynomial) -> _Polynomial:
    """MultiplyNTTs (algorithms 11 and 12)."""
    result: _Polynomial = []
    for index, gamma in enumerate(_GAMMAS):
        a0, a1, b0, b1 = *f[2 * index : 2 * index + 2], *g[2 * index : 2 * index + 2]
        result.append((a0 * b0 + a1 * b1 * gamma) % _Q)
        result.append((a0 * b1 + a1 * b0) % _Q)
    return result


def _sum(*polynomials: _Polynomial) -> _Polynomial:
    return [sum(coefficients) % _Q for coefficients in zip(*polynomials, strict=True)]


def _compressed(polynomial: Iterable[int], bits: int) -> _Polynomial:
    """Compress (section 4.2.1): round(2^d / q * x) mod 2^d."""
    return [((c << bits) + _Q // 2) // _Q & (1 << bits) - 1 for c in polynomial]


def _decompressed(polynomial: Iterable[int], bits: int) -> _Polynomial:
    """Decompress (section 4.2.1): round(q / 2^d * y)."""
    return [(c * _Q + (1 << bits - 1)) >> bits for c in polynomial]


def _packed(polynomial: Iterable[int], bits: int) -> bytes:
    """ByteEncode (algorithm 5): numbers of `bits` bits, lowest bit first."""
    value = 0
    for index, coefficient in enumerate(polynomial):
        value |= coefficient << (bits * index)
    return value.to_bytes(32 * bits, "little")


def _unpacked(octets: bytes, bits: int) -> _Polynomial:
    """ByteDecode (algorithm 6), without the reduction."""
    value, mask = int.from_bytes(octets, "little"), (1 << bits) - 1
    return [value >> shift & mask for shift in range(0, 8 * len(octets), bits)]


def _parts(octets: bytes, count: int) -> list[bytes]:
    size = len(octets) // count
    return [octets[index : index + size] for index in range(0, len(octets), size)]
