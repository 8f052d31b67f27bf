"""Proposal texts: what they mean, what is refused and with which words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.names import KEYWORDS
from ipseclab.errors import ConfigError, NoProposalChosen
from ipseclab.ike.proposals import (
    cipher_of,
    key_exchange_of,
    parse_esp_proposal,
    parse_ike_proposal,
    prf_of,
    proposal_text,
    suite_of,
    weak_words,
)
from ipseclab.registry import (
    EncrId,
    EsnId,
    IntegId,
    KeMethod,
    PrfId,
    ProtocolId,
    TransformType,
)
from ipseclab.wire.proposal import Proposal, Transform

ENCR, INTEG, PRF = TransformType.ENCR, TransformType.INTEG, TransformType.PRF
KE, ESN = TransformType.KE, TransformType.ESN
GCM128 = Transform(ENCR, EncrId.ENCR_AES_GCM_16, 128)
NO_ESN = Transform(ESN, EsnId.NO_ESN)

BLOCK = [word for word in KEYWORDS if re.fullmatch(r"aes\d+(ctr)?|3des|null", word)]
AEAD = [word for word, named in KEYWORDS.items() if named.type == ENCR and word not in BLOCK]


def words_of(kind: TransformType) -> list[str]:
    return [word for word, named in KEYWORDS.items() if named.type == kind]


def some(words: list[str], least: int = 1) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(words), min_size=least, max_size=3, unique=True)


def test_ike_proposal() -> None:
    assert parse_ike_proposal("aes128gcm16-prfsha256-x25519") == Proposal(
        1,
        ProtocolId.IKE,
        b"",
        (
            GCM128,
            Transform(PRF, PrfId.PRF_HMAC_SHA2_256),
            Transform(KE, KeMethod.CURVE25519),
        ),
    )


def test_prf_is_the_integrity_algorithms_own_unless_said() -> None:
    proposal = parse_ike_proposal("aes128-sha256-sha512-modp2048")
    assert [item.id for item in proposal.of_type(PRF)] == [
        PrfId.PRF_HMAC_SHA2_256,
        PrfId.PRF_HMAC_SHA2_512,
    ]
    said = parse_ike_proposal("aes128-sha256-prfsha384-modp2048")
    assert [item.id for item in said.of_type(PRF)] == [PrfId.PRF_HMAC_SHA2_384]


@pytest.mark.rfc("7296", "3.3.3", "MAY", "omit-none")
def test_esp_proposal_has_no_esn_said_or_not() -> None:
    assert parse_esp_proposal("aes128gcm16").transforms == (GCM128, NO_ESN)
    assert parse_esp_proposal("aes128gcm16-noesn").transforms == (GCM128, NO_ESN)


def test_order_and_case_do_not_matter() -> None:
    assert parse_esp_proposal("ECP384-sha512-AES256") == parse_esp_proposal("aes256-sha512-ecp384")
    assert parse_esp_proposal("aes128gcm16-curve25519") == parse_esp_proposal("aes128gcm16-x25519")


@pytest.mark.rfc("7296", "3.3", "MUST", "alternatives")
def test_several_of_one_type_keep_their_order() -> None:
    proposal = parse_esp_proposal("aes256gcm16-aes128gcm16-chacha20poly1305")
    assert [(item.id, item.key_bits) for item in proposal.of_type(ENCR)] == [
        (EncrId.ENCR_AES_GCM_16, 256),
        (EncrId.ENCR_AES_GCM_16, 128),
        (EncrId.ENCR_CHACHA20_POLY1305, None),
    ]


@pytest.mark.rfc("7296", "3.3", "MUST", "aead-integrity")
@pytest.mark.rfc("7296", "3.14", "MUST NOT", "unspecified-cipher")
@pytest.mark.rfc("7296", "5", "MUST NOT", "null-ike")
@pytest.mark.rfc("7296", "2.18", "MUST NOT", "none-proposed")
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("aes128gcm16-prfsha256-x25519-blowfish", 'unknown keyword "blowfish"'),
        ("aes128gcm16-prfsha256-x25519-blowfish", "known are aes128 aes192"),
        ("", 'unknown keyword ""'),
        ("aes128gcm16--x25519", 'unknown keyword ""'),
        ("prfsha256-x25519", "needs a cipher"),
        ("aes128-prfsha256-x25519", "needs an integrity algorithm"),
        ("aes128gcm16-sha256-prfsha256-x25519", "an AEAD cipher takes no INTEG"),
        ("aes128gcm16-aes128-sha256-x25519", "need a proposal each"),
        ("aes128gcm16-x25519", "needs a PRF"),
        ("aes128gcm16-prfsha256", "needs a key exchange method"),
        ("aes128gcm16-prfsha256-x25519-noesn", "IKE takes no ESN"),
        ("aes128gcm16-prfsha256-x25519-curve25519", '"curve25519" comes twice'),
        ("aes128gcm16-prfsha256-x25519-ke8_mlkem768", 'unknown keyword "ke8_mlkem768"'),
        ("aes128gcm16-prfsha256-x25519-ke1_aes128", 'unknown keyword "ke1_aes128"'),
        ("aes128gcm16-prfsha256-x25519-none", 'unknown keyword "none"'),
        ("aes128gcm16-prfsha256-ke1_mlkem768", "needs a key exchange method"),
        ("aes128gcm16-prfsha256-x25519-ke1_x25519", "each key exchange has another method"),
        ("aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke2_mlkem768", "has another method"),
        ("aes128gcm16iiv-prfsha256-x25519", '"aes128gcm16iiv" is for ESP alone'),
        ("aes256gmac-prfsha256-x25519", '"aes256gmac" is for ESP alone'),
        ("null-sha256-modp2048", '"null" is for ESP alone'),
    ],
)
def test_ike_proposal_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_ike_proposal(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("aes128gcm16-prfsha256", 'ESP takes no PRF transform, found "prfsha256"'),
        ("x25519", "needs a cipher"),
        ("aes256", "needs an integrity algorithm"),
        ("aes128gcm16-ke1_mlkem768", r"needs a key exchange method \(x25519\) before ke1_"),
        ("chacha20poly1305-sha256", "takes no INTEG"),
    ],
)
def test_esp_proposal_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_esp_proposal(text)


def ciphers_and_integrity(words: list[str]) -> st.SearchStrategy[list[str]]:
    block = [word for word in words if word in BLOCK]
    joined = st.tuples(some(block), some(words_of(INTEG))).map(lambda pair: pair[0] + pair[1])
    return st.one_of(some([word for word in words if word in AEAD]), joined)


def serves_ike(word: str) -> bool:
    cipher = cipher_of(Transform(*KEYWORDS[word]))
    return cipher is not None and cipher.serves_ike


@given(
    ciphers_and_integrity([word for word in words_of(ENCR) if serves_ike(word)]),
    some(words_of(PRF)),
    some(words_of(KE)),
)
def test_ike_text_round_trip(cipher: list[str], prf: list[str], method: list[str]) -> None:
    text = "-".join(cipher + prf + method)
    proposal = parse_ike_proposal(text)
    assert proposal_text(proposal) == text
    assert parse_ike_proposal(proposal_text(proposal)) == proposal


@given(ciphers_and_integrity(words_of(ENCR)), some(words_of(KE), 0), some(["noesn", "esn"], 0))
def test_esp_text_round_trip(cipher: list[str], method: list[str], esn: list[str]) -> None:
    proposal = parse_esp_proposal("-".join(cipher + method + esn))
    said = esn if "esn" in esn else []
    assert proposal_text(proposal) == "-".join(cipher + method + said)
    assert parse_esp_proposal(proposal_text(proposal)) == proposal


def test_additional_key_exchanges() -> None:
    text = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none-ke3_mlkem1024"
    proposal = parse_ike_proposal(text)
    assert proposal.transforms[3:] == (
        Transform(TransformType.ADDKE1, KeMethod.ML_KEM_768),
        Transform(TransformType.ADDKE1, KeMethod.NONE),
        Transform(TransformType.ADDKE3, KeMethod.ML_KEM_1024),
    )
    assert proposal_text(proposal) == text
    assert (
        parse_ike_proposal("aes256gcm16-prfsha384-curve25519-KE1_MLKEM768-ke1_none-ke3_mlkem1024")
        == proposal
    )


def test_weak_words() -> None:
    text = "aes128gcm16-prfsha256-modp2048-modp1024-ke1_modp1536"
    assert weak_words(parse_ike_proposal(text)) == ("modp1024", "ke1_modp1536")


def test_text_of_a_peers_esn() -> None:
    esn = Transform(ESN, EsnId.ESN)
    proposal = Proposal(1, ProtocolId.ESP, b"\0\0\0\1", (GCM128, esn, NO_ESN))
    assert proposal_text(proposal) == "aes128gcm16-esn-noesn"


def test_text_of_transforms_without_a_keyword() -> None:
    proposal = Proposal(
        2, ProtocolId.ESP, b"\0\0\0\1", (Transform(ENCR, EncrId.ENCR_CAMELLIA_CBC, 256), NO_ESN)
    )
    assert proposal_text(proposal) == "encr_camellia_cbc_256"


@pytest.mark.parametrize("word", AEAD)
def test_suite_of_an_aead(word: str) -> None:
    suite = suite_of(parse_esp_proposal(word).transforms)
    named = KEYWORDS[word]
    assert suite.cipher is CIPHERS[EncrId(named.id), named.key_bits or 256]
    assert suite.cipher.aead
    assert suite.integrity is None


def test_suite_of_cbc() -> None:
    suite = suite_of(parse_ike_proposal("aes192-sha384-ecp384").transforms)
    assert (suite.cipher.id, suite.cipher.key_bits) == (EncrId.ENCR_AES_CBC, 192)
    assert suite.integrity is not None
    assert suite.integrity.id == IntegId.AUTH_HMAC_SHA2_384_192


def test_suite_of_an_aead_with_integrity_none() -> None:
    assert suite_of((GCM128, Transform(INTEG, IntegId.NONE))).integrity is None


@pytest.mark.rfc("7296", "3", "SHOULD NOT", "unspecified")
@pytest.mark.parametrize(
    "transforms",
    [
        (),
        (
            Transform(ENCR, EncrId.ENCR_CAMELLIA_CBC, 128),
            Transform(INTEG, IntegId.AUTH_AES_CMAC_96),
        ),
        (Transform(ENCR, EncrId.ENCR_AES_CBC, 128),),
        (Transform(ENCR, EncrId.ENCR_AES_CBC, 128), Transform(INTEG, IntegId.NONE)),
        (Transform(ENCR, EncrId.ENCR_AES_CBC, 128), Transform(INTEG, IntegId.AUTH_HMAC_MD5_96)),
        (GCM128, Transform(INTEG, IntegId.AUTH_HMAC_SHA2_256_128)),
        (GCM128, Transform(INTEG, IntegId.AUTH_HMAC_SHA1_96)),
        (Transform(ENCR, EncrId.ENCR_AES_GCM_16),),
    ],
)
def test_suite_of_what_we_cannot_do(transforms: tuple[Transform, ...]) -> None:
    with pytest.raises(NoProposalChosen):
        suite_of(transforms)


def test_prf_and_key_exchange_of() -> None:
    proposal = parse_ike_proposal("aes128gcm16-prfsha384-ecp521")
    assert prf_of(proposal.transforms).id == PrfId.PRF_HMAC_SHA2_384
    method = key_exchange_of(proposal.transforms)
    assert method is not None
    assert method.method == KeMethod.ECP_521
    assert key_exchange_of((GCM128, Transform(KE, KeMethod.NONE))) is None
    with pytest.raises(NoProposalChosen):
        prf_of((GCM128,))
    with pytest.raises(NoProposalChosen):
        key_exchange_of((Transform(KE, 33),))  # GOST3410_2012_256
