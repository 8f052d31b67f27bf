"""Pseudorandom functions of IKEv2: HMAC with SHA-2 (RFC 4868), and prf+ (RFC 7296 section 2.13)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from ipseclab.registry import PrfId

PRF_PLUS_MAX_ROUNDS = 255
"""The round counter is one octet (RFC 7296 section 2.13)."""


@dataclass(frozen=True, slots=True)
class Prf:
    """A PRF transform (RFC 7296 transform type 2). `key_size` is the preferred key's, in octets."""

    id: PrfId
    hash_name: str
    key_size: int
    output_size: int

    def prf(self, key: bytes, octets: bytes) -> bytes:
        """prf(key, octets); HMAC takes a key of any length."""
        return hmac.digest(key, octets, self.hash_name)

    def plus(self, key: bytes, seed: bytes, size: int) -> bytes:
        """The first `size` octets of prf+(key, seed).

        prf+ (K,S) = T1 | T2 | T3 | ...  with T1 = prf (K, S | 0x01), Tn = prf (K, Tn-1 | S | n)
        """
        rounds = -(-size // self.output_size)
        if rounds > PRF_PLUS_MAX_ROUNDS:
            limit = PRF_PLUS_MAX_ROUNDS * self.output_size
            raise ValueError(f"prf+ of {size} octets, {self.id.name} gives at most {limit}")
        blocks: list[bytes] = []
        last = b""
        for counter in range(1, rounds + 1):
            last = self.prf(key, last + seed + bytes([counter]))
            blocks.append(last)
        return b"".join(blocks)[:size]


PRFS: dict[PrfId, Prf] = {
    prf.id: prf
    for prf in (
        Prf(PrfId.PRF_HMAC_SHA2_256, "sha256", 32, 32),
        Prf(PrfId.PRF_HMAC_SHA2_384, "sha384", 48, 48),
        Prf(PrfId.PRF_HMAC_SHA2_512, "sha512", 64, 64),
    )
}
