"""Integrity algorithms and PRFs: RFC 4231's vectors and prf+'s construction."""

import hashlib
import hmac
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.crypto.integrity import INTEGRITIES, Integrity
from ipseclab.crypto.names import PRF_OF_INTEGRITY
from ipseclab.crypto.prf import PRFS, Prf

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "crypto.json").read_text())["hmac"]

each_prf = pytest.mark.parametrize("prf", PRFS.values(), ids=lambda prf: prf.id.name)
SHA2 = [i for i in INTEGRITIES.values() if i.hash_name in ("sha256", "sha384", "sha512")]
each_integrity = pytest.mark.parametrize("integrity", SHA2, ids=lambda i: i.id.name)
each_vector = pytest.mark.parametrize("row", VECTORS, ids=lambda row: row["source"])


@each_vector
@each_prf
def test_prf_vector(prf: Prf, row: dict[str, str]) -> None:
    got = prf.prf(bytes.fromhex(row["key"]), bytes.fromhex(row["data"]))
    assert got.hex() == row[prf.hash_name]
    assert len(got) == prf.output_size


@each_vector
@each_integrity
def test_integrity_vector(integrity: Integrity, row: dict[str, str]) -> None:
    key, data = bytes.fromhex(row["key"]), bytes.fromhex(row["data"])
    expected = bytes.fromhex(row[integrity.hash_name])[: integrity.icv_size]
    assert integrity.mac(key, data) == expected
    assert integrity.keyed(key).mac(data) == expected


@each_integrity
def test_icv_is_half_the_hash(integrity: Integrity) -> None:
    digest_size = hashlib.new(integrity.hash_name).digest_size
    assert integrity.icv_size * 2 == digest_size == integrity.key_size


@each_integrity
@given(key=st.binary(max_size=200), parts=st.lists(st.binary(max_size=300), max_size=4))
def test_keyed_mac_is_hmac_of_the_parts(
    integrity: Integrity, key: bytes, parts: list[bytes]
) -> None:
    mac = integrity.keyed(key)
    expected = hmac.digest(key, b"".join(parts), integrity.hash_name)[: integrity.icv_size]
    assert mac.mac(*parts) == expected
    assert mac.mac(*parts) == expected  # nothing of a message stays behind


@each_prf
@given(key=st.binary(max_size=80), seed=st.binary(max_size=80), size=st.integers(0, 400))
def test_prf_plus_is_the_chain_of_rfc_7296_section_2_13(
    prf: Prf, key: bytes, seed: bytes, size: int
) -> None:
    octets = prf.plus(key, seed, size)
    assert len(octets) == size
    whole = prf.plus(key, seed, 16 * prf.output_size)
    assert whole.startswith(octets)
    blocks = [whole[at : at + prf.output_size] for at in range(0, len(whole), prf.output_size)]
    assert blocks[0] == prf.prf(key, seed + b"\x01")
    for number, (before, block) in enumerate(itertools.pairwise(blocks), start=2):
        assert block == prf.prf(key, before + seed + bytes([number]))


@each_prf
def test_prf_plus_ends_with_its_counter(prf: Prf) -> None:
    limit = 255 * prf.output_size
    assert len(prf.plus(b"key", b"seed", limit)) == limit
    with pytest.raises(ValueError, match=f"at most {limit}"):
        prf.plus(b"key", b"seed", limit + 1)


def test_each_integrity_has_its_prf() -> None:
    for integrity in SHA2:
        assert PRFS[PRF_OF_INTEGRITY[integrity.id]].hash_name == integrity.hash_name
