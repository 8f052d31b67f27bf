"""Sizes and order of derived keys: RFC 7296 sections 2.13, 2.14 and 2.17."""

import pytest

from ipseclab.crypto.prf import PRFS
from ipseclab.ike.keys import child_keys, ike_keys
from ipseclab.ike.proposals import child_suite_of, parse_esp_proposal, parse_ike_proposal, suite_of

NONCES, SPIS = (b"n" * 32, b"m" * 32), (b"i" * 8, b"r" * 8)
ENCR = {"aes256-sha384": (32, 48), "aes128gcm16": (20, 0), "chacha20poly1305": (36, 0)}


@pytest.mark.rfc("7296", "2.13", "MUST", "prf-key-size")
@pytest.mark.rfc("7296", "2.14", "MUST", "prf-key-size")
@pytest.mark.parametrize("prf", PRFS.values(), ids=lambda prf: prf.id.name)
@pytest.mark.parametrize(("cipher", "sizes"), ENCR.items())
def test_the_seven_keys_have_their_sizes_and_order(prf, cipher, sizes):
    suite = suite_of(parse_ike_proposal(f"{cipher}-prfsha256-x25519").transforms)
    keys = ike_keys(prf, suite, b"seed", NONCES, SPIS)
    encr, integ = sizes
    cut = [keys.sk_d, keys.sk_ai, keys.sk_ar, keys.sk_ei, keys.sk_er, keys.sk_pi, keys.sk_pr]
    preferred = prf.key_size
    expected = [preferred, integ, integ, encr, encr, preferred, preferred]
    assert [len(key) for key in cut] == expected
    assert b"".join(cut) == prf.plus(b"seed", b"".join(NONCES + SPIS), sum(expected))


@pytest.mark.rfc("7296", "5", "MUST NOT", "weak-prf")
@pytest.mark.parametrize("prf", PRFS.values(), ids=lambda prf: prf.id.name)
def test_a_prf_is_as_strong_as_its_keys(prf):
    assert prf.output_size >= 16
    assert prf.key_size == (16 if "AES128" in prf.id.name else prf.output_size)


@pytest.mark.rfc("7296", "2.17", "MUST", "keymat")
@pytest.mark.rfc("7296", "2.17", "MUST", "encryption-first")
@pytest.mark.parametrize(("cipher", "sizes"), ENCR.items())
def test_keymat_is_encryption_before_integrity_and_initiator_before_responder(cipher, sizes):
    prf, suite = next(iter(PRFS.values())), child_suite_of(parse_esp_proposal(cipher))
    keys = child_keys(prf, suite, b"sk_d", NONCES, b"shared")
    cut = [keys.encr_i, keys.integ_i, keys.encr_r, keys.integ_r]
    assert [len(key) for key in cut] == [*sizes, *sizes]
    assert b"".join(cut) == prf.plus(b"sk_d", b"shared" + b"".join(NONCES), 2 * sum(sizes))
