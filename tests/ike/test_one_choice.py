"""One proposal of several, one transform of each type: RFC 7296 sections 2.7, 3.3.5 and 3.3.6."""

from dataclasses import replace
from itertools import chain, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.errors import InvalidSyntax, NoProposalChosen
from ipseclab.ike.negotiation import check_chosen, choose_proposal, with_spi
from ipseclab.ike.proposals import parse_ike_proposal
from ipseclab.registry import EncrId, IntegId, KeMethod, PrfId, ProtocolId, TransformType
from ipseclab.wire.proposal import Attribute, Proposal, Transform

IKE, ESP = ProtocolId.IKE, ProtocolId.ESP
GCM = "aes128gcm16-prfsha256-x25519"
UNKNOWN_TYPE = Transform(TransformType(200), 1)


def ike(text: str) -> Proposal:
    return parse_ike_proposal(text)


def changed(
    proposal: Proposal, *added: Transform, without: TransformType | None = None
) -> Proposal:
    kept = tuple(t for t in proposal.transforms if t.type != without)
    return replace(proposal, transforms=kept + added)


CIPHERS = st.lists(
    st.sampled_from(["aes128gcm16", "aes256gcm16", "chacha20poly1305"]), min_size=1, unique=True
)
PRFS = st.lists(st.sampled_from(["prfsha256", "prfsha384"]), min_size=1, unique=True)
METHODS = st.lists(st.sampled_from(["x25519", "ecp256", "ecp384"]), min_size=1, unique=True)
PROPOSALS = st.lists(
    st.builds(lambda *words: ike("-".join(chain(*words))), CIPHERS, PRFS, METHODS),
    min_size=1,
    max_size=3,
)


@pytest.mark.rfc("7296", "3.3.4", "MUST", "refuse-others")
@pytest.mark.rfc("7296", "3.3.6", "MUST", "one-set")
@pytest.mark.rfc("7296", "3.3.6", "MUST", "one-proposal")
@pytest.mark.rfc("7296", "3.3.6", "MUST", "one-transform")
@pytest.mark.rfc("7296", "2.7", "MUST", "one-suite")
@pytest.mark.rfc("7296", "2.7", "MUST", "same-protocol")
@pytest.mark.rfc("7296", "2.7", "MUST", "one-proposal")
@pytest.mark.rfc("7296", "2.7", "MUST", "one-of-each-type")
@given(PROPOSALS, PROPOSALS, st.sampled_from([IKE, ESP]))
def test_what_is_chosen_was_offered_and_is_one_of_each_type(theirs, mine, protocol):
    offered = tuple(replace(p, protocol=protocol) for p in with_spi(tuple(theirs), b""))
    possible = protocol == IKE and any(
        all(
            set(one.of_type(kind)) & set(own.of_type(kind))
            for kind in {t.type for t in one.transforms}
        )
        for one in offered
        for own in mine
    )
    try:
        chosen = choose_proposal(offered, tuple(mine), IKE)
    except NoProposalChosen:
        assert not possible
        return
    assert possible
    original = offered[chosen.number - 1]
    assert chosen.protocol == original.protocol == IKE
    assert [t.type for t in chosen.transforms] == sorted({t.type for t in original.transforms})
    assert set(chosen.transforms) <= set(original.transforms)
    assert check_chosen((chosen,), offered) == chosen


@pytest.mark.rfc("7296", "3.3.1", "MUST", "number-back")
@pytest.mark.rfc("7296", "3.3.6", "MUST", "attributes-back")
def test_the_number_and_attributes_of_what_is_chosen_come_back():
    offered = with_spi((ike("aes256gcm16-prfsha256-x25519"), ike(GCM)), b"")
    chosen = choose_proposal(offered, (ike(GCM),), IKE)
    assert chosen.number == 2
    assert chosen.of_type(TransformType.ENCR)[0].key_bits == 128


@pytest.mark.rfc("7296", "3.3.5", "MUST NOT", "fixed-key-length")
@pytest.mark.rfc("7296", "3.3.5", "MUST", "key-length")
@pytest.mark.rfc("7296", "2.13", "MUST", "fixed-key-size")
def test_key_length_is_there_exactly_where_it_must_be():
    own = ike("aes128gcm16-aes256gcm16-chacha20poly1305-prfsha256-x25519")
    for encr, bits in (
        (EncrId.ENCR_AES_GCM_16, None),
        (EncrId.ENCR_AES_GCM_16, 0),
        (EncrId.ENCR_AES_GCM_16, 192),
        (EncrId.ENCR_CHACHA20_POLY1305, 256),
    ):
        wrong = changed(
            ike(GCM), Transform(TransformType.ENCR, encr, bits), without=TransformType.ENCR
        )
        with pytest.raises(NoProposalChosen):
            choose_proposal((wrong,), (own,), IKE)
    assert {t.key_bits for t in own.of_type(TransformType.ENCR)} == {128, 256, None}


@pytest.mark.rfc("7296", "3.3.3", "MUST", "all-types")
@pytest.mark.rfc("7296", "3.3.6", "MUST", "unknown-type")
@pytest.mark.parametrize(
    "odd",
    [
        changed(ike(GCM), UNKNOWN_TYPE),
        changed(ike(GCM), without=TransformType.PRF),
        changed(ike(GCM), without=TransformType.KE),
        changed(ike(GCM), without=TransformType.ENCR),
    ],
    ids=["unknown type", "no PRF", "no KE", "no cipher"],
)
def test_a_proposal_with_an_unknown_type_or_without_one_it_needs_is_passed_over(odd):
    with pytest.raises(NoProposalChosen):
        choose_proposal((odd,), (ike(GCM),), IKE)
    offered = (odd, replace(ike(GCM), number=2))
    assert choose_proposal(offered, (ike(GCM),), IKE).number == 2


@pytest.mark.rfc("7296", "3.3.6", "MUST", "unknown-transform")
def test_unknown_transforms_and_attributes_are_passed_over():
    (known,) = ike(GCM).of_type(TransformType.ENCR)
    odd = replace(known, attributes=(Attribute(99, b"\0\1"),))
    offered = changed(ike(GCM), Transform(TransformType.PRF, PrfId(999)), odd)
    for order in permutations(offered.transforms):
        chosen = choose_proposal((replace(offered, transforms=order),), (ike(GCM),), IKE)
        assert set(chosen.transforms) == set(ike(GCM).transforms)
    only = changed(ike(GCM), odd, without=TransformType.ENCR)
    with pytest.raises(NoProposalChosen):
        choose_proposal((only,), (ike(GCM),), IKE)


@pytest.mark.rfc("7296", "3.3.6", "MUST", "check-answer")
def test_an_answer_that_was_not_offered_is_refused():
    offered = with_spi((ike(GCM), ike("aes256gcm16-prfsha384-x25519-ecp256")), b"")
    good = choose_proposal(offered, (ike(GCM),), IKE)
    strange = Transform(TransformType.ENCR, EncrId.ENCR_AES_GCM_16, 256)
    for answer in (
        (),
        (good, good),
        (replace(good, number=3),),
        (replace(good, number=2),),
        (replace(good, protocol=ESP),),
        (changed(good, strange, without=TransformType.ENCR),),
        (changed(good, strange),),
        (changed(good, without=TransformType.PRF),),
        (changed(good, without=TransformType.KE),),
        (offered[1],),
    ):
        with pytest.raises(InvalidSyntax):
            check_chosen(answer, offered)


@pytest.mark.rfc("7296", "3.3", "MUST", "aead-integrity")
def test_an_aead_cipher_may_be_offered_with_integrity_none():
    none = Transform(TransformType.INTEG, IntegId.NONE)
    offered = changed(ike(GCM), none)
    assert set(choose_proposal((offered,), (ike(GCM),), IKE).transforms) == set(offered.transforms)
    assert not ike(GCM).of_type(TransformType.INTEG)
    with_mac = changed(ike(GCM), Transform(TransformType.INTEG, IntegId.AUTH_HMAC_SHA2_256_128))
    with pytest.raises(NoProposalChosen):
        choose_proposal((with_mac,), (ike(GCM),), IKE)
    assert KeMethod.NONE not in [t.id for t in ike(GCM).of_type(TransformType.KE)]
