"""What strongSwan has: the algorithms that its daemon lists, and our transforms by its names.

`python -m ipseclab.measure.interop.algorithms FOLDER` (in a sandbox) starts a daemon without any
connection and stores its answer to vici's get-algorithms, which is `swanctl --list-algs`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ipseclab.crypto.names import KEYWORDS, NamedTransform
from ipseclab.emu.lab import SOCKETS_FOLDER
from ipseclab.emu.peers.strongswan import StrongswanDriver, StrongswanSpec
from ipseclab.lab.gateways import gateway_config
from ipseclab.lab.topology import load_topology
from ipseclab.measure.interop.cells import SITES
from ipseclab.measure.results import write_atomic
from ipseclab.registry import EncrId, IntegId, KeMethod, PrfId, TransformType

ALGORITHMS_FILE = "algorithms.json"

Algorithm = tuple[str, str]
"""Kind and name, as strongSwan lists them."""

KINDS = ("encryption", "aead", "integrity", "prf", "dh")
"""Its lists of what IKE negotiates."""

NAMES: Mapping[TransformType, Mapping[int, Algorithm]] = {
    TransformType.ENCR: {
        EncrId.ENCR_3DES: ("encryption", "3DES_CBC"),
        EncrId.ENCR_NULL: ("encryption", "NULL"),
        EncrId.ENCR_AES_CBC: ("encryption", "AES_CBC"),
        EncrId.ENCR_AES_CTR: ("encryption", "AES_CTR"),
        EncrId.ENCR_AES_CCM_8: ("aead", "AES_CCM_8"),
        EncrId.ENCR_AES_CCM_12: ("aead", "AES_CCM_12"),
        EncrId.ENCR_AES_CCM_16: ("aead", "AES_CCM_16"),
        EncrId.ENCR_AES_GCM_8: ("aead", "AES_GCM_8"),
        EncrId.ENCR_AES_GCM_12: ("aead", "AES_GCM_12"),
        EncrId.ENCR_AES_GCM_16: ("aead", "AES_GCM_16"),
        EncrId.ENCR_NULL_AUTH_AES_GMAC: ("aead", "NULL_AES_GMAC"),
        EncrId.ENCR_CHACHA20_POLY1305: ("aead", "CHACHA20_POLY1305"),
        EncrId.ENCR_AES_CCM_8_IIV: ("aead", "AES_CCM_8_IIV"),
        EncrId.ENCR_AES_GCM_16_IIV: ("aead", "AES_GCM_16_IIV"),
        EncrId.ENCR_CHACHA20_POLY1305_IIV: ("aead", "CHACHA20_POLY1305_IIV"),
    },
    TransformType.INTEG: {
        IntegId.AUTH_HMAC_SHA1_96: ("integrity", "HMAC_SHA1_96"),
        IntegId.AUTH_AES_XCBC_96: ("integrity", "AES_XCBC_96"),
        IntegId.AUTH_AES_CMAC_96: ("integrity", "AES_CMAC_96"),
        IntegId.AUTH_HMAC_SHA2_256_128: ("integrity", "HMAC_SHA2_256_128"),
        IntegId.AUTH_HMAC_SHA2_384_192: ("integrity", "HMAC_SHA2_384_192"),
        IntegId.AUTH_HMAC_SHA2_512_256: ("integrity", "HMAC_SHA2_512_256"),
    },
    TransformType.PRF: {
        PrfId.PRF_HMAC_SHA1: ("prf", "PRF_HMAC_SHA1"),
        PrfId.PRF_AES128_XCBC: ("prf", "PRF_AES128_XCBC"),
        PrfId.PRF_AES128_CMAC: ("prf", "PRF_AES128_CMAC"),
        PrfId.PRF_HMAC_SHA2_256: ("prf", "PRF_HMAC_SHA2_256"),
        PrfId.PRF_HMAC_SHA2_384: ("prf", "PRF_HMAC_SHA2_384"),
        PrfId.PRF_HMAC_SHA2_512: ("prf", "PRF_HMAC_SHA2_512"),
    },
    TransformType.KE: {
        KeMethod.MODP_768: ("dh", "MODP_768"),
        KeMethod.MODP_1024: ("dh", "MODP_1024"),
        KeMethod.MODP_1536: ("dh", "MODP_1536"),
        KeMethod.MODP_2048: ("dh", "MODP_2048"),
        KeMethod.MODP_3072: ("dh", "MODP_3072"),
        KeMethod.MODP_4096: ("dh", "MODP_4096"),
        KeMethod.MODP_6144: ("dh", "MODP_6144"),
        KeMethod.MODP_8192: ("dh", "MODP_8192"),
        KeMethod.MODP_1024_160: ("dh", "MODP_1024_160"),
        KeMethod.MODP_2048_224: ("dh", "MODP_2048_224"),
        KeMethod.MODP_2048_256: ("dh", "MODP_2048_256"),
        KeMethod.ECP_192: ("dh", "ECP_192"),
        KeMethod.ECP_224: ("dh", "ECP_224"),
        KeMethod.ECP_256: ("dh", "ECP_256"),
        KeMethod.ECP_384: ("dh", "ECP_384"),
        KeMethod.ECP_521: ("dh", "ECP_521"),
        KeMethod.BRAINPOOL_P256R1: ("dh", "ECP_256_BP"),
        KeMethod.BRAINPOOL_P384R1: ("dh", "ECP_384_BP"),
        KeMethod.BRAINPOOL_P512R1: ("dh", "ECP_512_BP"),
        KeMethod.CURVE25519: ("dh", "CURVE_25519"),
        KeMethod.CURVE448: ("dh", "CURVE_448"),
        KeMethod.ML_KEM_512: ("dh", "ML_KEM_512"),
        KeMethod.ML_KEM_768: ("dh", "ML_KEM_768"),
        KeMethod.ML_KEM_1024: ("dh", "ML_KEM_1024"),
    },
}
"""What our transforms are called in its lists; it calls those that 5.9.8 lacks so in 6.0."""

INTERNAL = {
    *("AES_ECB", "AES_CFB", "DES_ECB", "MODP_CUSTOM", "PRF_KEYED_SHA1"),
    *("HMAC_MD5_128", "HMAC_SHA1_128", "HMAC_SHA1_160"),
    *("HMAC_SHA2_256_256", "HMAC_SHA2_384_384", "HMAC_SHA2_512_512"),
}
"""In its lists for other uses than as transforms of IKEv2."""


def algorithm(named: NamedTransform) -> Algorithm:
    """Our transform as strongSwan lists it."""
    return NAMES[named.type][named.id]


def algorithms_in(proposal: str) -> tuple[Algorithm, ...]:
    """Everything that strongSwan must have for a proposal."""
    words = [word.partition("_")[2] or word for word in proposal.split("-")]
    found = [KEYWORDS[word] for word in words]
    return tuple(algorithm(item) for item in found if item.type != TransformType.ESN)


def foreign(has: Mapping[str, Sequence[str]]) -> tuple[Algorithm, ...]:
    """What strongSwan could negotiate and we could not."""
    ours = {item for names in NAMES.values() for item in names.values()}
    listed = [(kind, name) for kind in KINDS for name in has.get(kind, ())]
    return tuple(item for item in listed if item not in ours and item[1] not in INTERNAL)


def read_algorithms(path: Path) -> Mapping[str, tuple[str, ...]]:
    """What `main` stored."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return {kind: tuple(names) for kind, names in found.items()}


def main(folder: Path) -> None:
    """Ask a daemon, in here."""
    config = gateway_config(load_topology(SITES.topology), SITES.responder)
    spec = StrongswanSpec(
        config, folder / "logs", SOCKETS_FOLDER / "algorithms.vici", folder / "peer.jsonl"
    )
    found = StrongswanDriver(spec).algorithms()
    write_atomic(folder / ALGORITHMS_FILE, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
