"""Signatures: the names that RFCs give them, keys that fit, what is deterministic and what not."""

from datetime import datetime
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.crypto.signature import (
    BY_NAME,
    OLD_METHODS,
    OWN_HASHES,
    SCHEMES,
    choose_scheme,
    decode_digital_signature,
    decode_hashes,
    encode_digital_signature,
    encode_hashes,
    old_method,
    weakness,
)
from ipseclab.errors import SignatureFailure
from ipseclab.registry import AuthMethod, HashAlgorithmId

RSA = rsa.generate_private_key(65537, 2048)
KEYS = {
    "rsa": RSA,
    "p256": ec.derive_private_key(7, ec.SECP256R1()),
    "p384": ec.derive_private_key(7, ec.SECP384R1()),
    "p521": ec.derive_private_key(7, ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)),
    "ed448": ed448.Ed448PrivateKey.from_private_bytes(bytes(57)),
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32)),
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.from_seed_bytes(bytes(32)),
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.from_seed_bytes(bytes(32)),
}
PAIRS = [
    (scheme, name)
    for scheme in SCHEMES
    for name, key in KEYS.items()
    if scheme.fits(key.public_key())
]


@pytest.mark.rfc("7427", "3", "MUST", "read-identifier")
@pytest.mark.parametrize(("scheme", "key"), PAIRS, ids=lambda v: getattr(v, "name", v))
def test_each_scheme_signs_and_refuses_other_octets_keys_and_signatures(scheme, key):
    private = KEYS[key]
    signature = scheme.sign(private, b"octets")
    scheme.verify(private.public_key(), signature, b"octets")
    with pytest.raises(SignatureFailure):
        scheme.verify(private.public_key(), signature, b"others")
    with pytest.raises(SignatureFailure):
        scheme.verify(private.public_key(), signature[:-1], b"octets")
    for other in KEYS.values():
        if not scheme.fits(other.public_key()):
            with pytest.raises(SignatureFailure):
                scheme.verify(other.public_key(), signature, b"octets")
            with pytest.raises(SignatureFailure):
                scheme.sign(other, b"octets")


def test_every_scheme_has_a_key_here_and_every_key_a_scheme():
    assert {scheme.name for scheme, _ in PAIRS} == set(BY_NAME)
    assert {name for _, name in PAIRS} == set(KEYS)


@pytest.mark.parametrize(("scheme", "key"), PAIRS, ids=lambda v: getattr(v, "name", v))
def test_scheme_is_deterministic_exactly_where_it_says_so(scheme, key):
    first, second = (scheme.sign(KEYS[key], b"octets") for _ in range(2))
    assert (first == second) is scheme.deterministic
    assert len(first) == len(second)


def test_what_cannot_be_deterministic_is_pss_and_ml_dsa():
    drawn = {s.name.rpartition("-")[0] for s in SCHEMES if not s.deterministic}
    assert drawn == {"rsa-pss", "ml-dsa"}
    assert {s.name for s in SCHEMES if s.experimental} == {"ml-dsa-44", "ml-dsa-65", "ml-dsa-87"}


@pytest.mark.rfc("7427", "3", "MUST", "identifier-of-pkix")
@pytest.mark.parametrize(
    ("name", "key"),
    [(s.name, k) for s, k in PAIRS if not s.experimental or k == "ml-dsa-44"],
)
def test_identifiers_are_those_that_the_library_writes_into_certificates(name, key):
    """An oracle for the DER: a certificate's signatureAlgorithm is the same AlgorithmIdentifier."""
    scheme, private = BY_NAME[name], KEYS[key]
    subject = x509.Name([])
    end = datetime(2030, 1, 1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1))
        .not_valid_after(end)
    )
    algorithm = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}.get(name[-3:])
    plain = scheme.hash_id == HashAlgorithmId.IDENTITY
    options = {}
    if name.startswith("rsa-pss"):
        options["rsa_padding"] = padding.PSS(padding.MGF1(algorithm()), algorithm.digest_size)
    certificate = builder.sign(private, None if plain else algorithm(), **options)
    assert scheme.identifier in certificate.public_bytes(Encoding.DER)


def test_ecdsa_of_the_old_methods_is_two_full_size_numbers():
    """RFC 4754 section 7, not DER."""
    for name, method, size in (
        ("p256", AuthMethod.ECDSA_SHA256_P256, 64),
        ("p384", AuthMethod.ECDSA_SHA384_P384, 96),
        ("p521", AuthMethod.ECDSA_SHA512_P521, 132),
    ):
        key = KEYS[name]
        chosen, scheme = old_method(key.public_key())
        assert chosen == method
        signature = scheme.sign(key, b"octets")
        assert len(signature) == size
        scheme.verify(key.public_key(), signature, b"octets")
        with pytest.raises(SignatureFailure):
            scheme.verify(key.public_key(), signature + b"\0", b"octets")


@pytest.mark.rfc("7296", "3.8", "SHOULD", "rsa-sha1")
def test_old_rsa_method_signs_with_sha1_and_takes_any_hash():
    method, scheme = old_method(RSA.public_key())
    assert method == AuthMethod.RSA_DIGITAL_SIGNATURE
    assert scheme.hash_id == HashAlgorithmId.SHA1
    RSA.public_key().verify(
        scheme.sign(RSA, b"octets"), b"octets", padding.PKCS1v15(), hashes.SHA1()
    )
    assert len(OLD_METHODS[method]) == 4


@pytest.mark.parametrize("key", ["ed25519", "ed448", "ml-dsa-65"])
def test_keys_newer_than_rfc_7427_have_no_old_method(key):
    with pytest.raises(SignatureFailure):
        old_method(KEYS[key].public_key())


@pytest.mark.rfc("7427", "7", "SHOULD", "strong-hash")
@pytest.mark.parametrize(
    ("key", "scheme"),
    [
        ("rsa", "rsa-pss-sha256"),
        ("p256", "ecdsa-sha256"),
        ("p384", "ecdsa-sha384"),
        ("p521", "ecdsa-sha512"),
        ("ed448", "ed448"),
        ("ml-dsa-87", "ml-dsa-87"),
    ],
)
def test_choice_is_as_strong_as_the_key(key, scheme):
    assert choose_scheme(KEYS[key].public_key(), OWN_HASHES).name == scheme


@pytest.mark.rfc("7427", "4", "MUST", "peers-hash")
def test_choice_keeps_to_the_peers_hashes_and_to_ones_own_order():
    sha384 = (HashAlgorithmId.SHA2_384,)
    assert choose_scheme(RSA.public_key(), sha384).name == "rsa-pss-sha384"
    wanted = ("rsa-pkcs1-sha512", "rsa-pkcs1-sha256")
    assert choose_scheme(RSA.public_key(), OWN_HASHES, wanted).name == "rsa-pkcs1-sha512"
    assert choose_scheme(KEYS["p521"].public_key(), sha384).name == "ecdsa-sha384"
    with pytest.raises(SignatureFailure, match="SHA2_384, none fits ed25519"):
        choose_scheme(KEYS["ed25519"].public_key(), sha384)
    with pytest.raises(SignatureFailure, match="no signature scheme"):
        choose_scheme(RSA.public_key(), OWN_HASHES, ("ed25519",))


@pytest.mark.rfc("7427", "3", "MUST", "identifier-first")
def test_digital_signature_carries_its_identifier():
    scheme = BY_NAME["ed25519"]
    data = encode_digital_signature(scheme, b"signature")
    assert data[:8] == bytes.fromhex("07300506032b6570")  # RFC 8420 section 3
    assert decode_digital_signature(data) == (scheme, b"signature")


@pytest.mark.rfc("7427", "3", "MUST", "pss-parameters")
def test_pss_identifier_without_null_parameters_is_known_too():
    """RFC 4055 section 2.1: both must be accepted."""
    plain = BY_NAME["rsa-pss-sha256"].identifier
    hash_with_null = bytes.fromhex("300d06096086480165030402010500")
    assert plain.count(hash_with_null) == 2
    without = bytes.fromhex(
        "303d06092a864886f70d01010a3030a00d300b0609608648016503040201"
        "a11a301806092a864886f70d010108300b0609608648016503040201a203020120"
    )
    scheme, _ = decode_digital_signature(bytes([len(without)]) + without)
    assert scheme.name == "rsa-pss-sha256"


@pytest.mark.rfc("7427", "3", "MUST", "read-identifier")
@given(st.binary(max_size=80))
def test_any_authentication_data_is_read_or_refused(data):
    try:
        scheme, signature = decode_digital_signature(data)
    except SignatureFailure:
        return
    assert encode_digital_signature(scheme, signature) == data


@pytest.mark.rfc("7427", "4", "MUST", "unknown-hash")
def test_hashes_survive_and_unknown_ones_are_passed_over():
    assert decode_hashes(encode_hashes(OWN_HASHES)) == OWN_HASHES
    assert decode_hashes(bytes.fromhex("000200990002000500")) == (
        HashAlgorithmId.SHA2_256,
        HashAlgorithmId.IDENTITY,
    )
    assert decode_hashes(b"") == ()


def test_weak_and_costly_keys_are_named():
    small = rsa.generate_private_key(65537, 1024)
    assert "1024 bits, at least 2048" in weakness(small.public_key())
    assert "secp224r1" in weakness(ec.derive_private_key(7, ec.SECP224R1()).public_key())
    modulus = RSA.public_key().public_numbers().n
    costly = rsa.RSAPublicNumbers((1 << 40) + 1, modulus).public_key()
    assert "exponent" in weakness(costly)
    huge = rsa.RSAPublicNumbers(65537, Random(1).getrandbits(9000) | (1 << 8999) | 1).public_key()
    assert "at most 8192" in weakness(huge)
    assert not any(weakness(key.public_key()) for key in KEYS.values())


def test_ecdsa_nonces_are_those_of_rfc_6979():
    """Appendix A.2.5, P-256 with SHA-256, message "sample"."""
    secret = int("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721", 16)
    key = ec.derive_private_key(secret, ec.SECP256R1())
    _, scheme = old_method(key.public_key())
    assert scheme.sign(key, b"sample").hex().upper() == (
        "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716"
        "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8"
    )
