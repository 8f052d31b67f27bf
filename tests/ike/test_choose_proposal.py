"""Which of the additional key exchanges the two ends agree on (RFC 9370 section 2.2.1)."""

import pytest

from ipseclab.errors import InvalidSyntax, NoProposalChosen
from ipseclab.ike.negotiation import additional_methods, check_chosen, choose_proposal
from ipseclab.ike.proposals import parse_ike_proposal, proposal_text
from ipseclab.registry import KeMethod, ProtocolId, TransformType
from ipseclab.wire.proposal import Proposal, Transform

BASE = "aes128gcm16-prfsha256"
MLKEM_TWICE = tuple(
    Transform(kind, KeMethod.ML_KEM_768) for kind in (TransformType.ADDKE1, TransformType.ADDKE2)
)


def chosen(offered: str, own: str, *, additional: bool = True) -> str:
    """What is added to BASE; empty when nothing can be agreed on."""
    theirs, mine = parse_ike_proposal(f"{BASE}-{offered}"), parse_ike_proposal(f"{BASE}-{own}")
    try:
        found = choose_proposal((theirs,), (mine,), ProtocolId.IKE, additional=additional)
    except NoProposalChosen:
        return ""
    assert check_chosen((found,), (theirs,)) == found
    return proposal_text(found).removeprefix(f"{BASE}-")


@pytest.mark.rfc("9370", "2.2.1", "MUST", "one-of-each")
@pytest.mark.rfc("9370", "2.2.1", "MUST NOT", "method-twice")
@pytest.mark.parametrize(
    ("offered", "own", "result"),
    [
        ("x25519-ke1_mlkem768", "x25519-ke1_mlkem768", "x25519-ke1_mlkem768"),
        ("x25519-ke1_mlkem768", "x25519", ""),
        ("x25519", "x25519-ke1_mlkem768", ""),
        ("x25519-ke1_mlkem768-ke1_none", "x25519", "x25519-ke1_none"),
        ("x25519", "x25519-ke1_mlkem768-ke1_none", "x25519"),
        ("x25519-ke1_mlkem768", "x25519-ke2_mlkem768", ""),
        (
            "x25519-ke1_mlkem768-ke1_mlkem1024",
            "x25519-ke1_mlkem1024-ke1_mlkem768",
            "x25519-ke1_mlkem1024",
        ),
        # whoever would take ML-KEM-768 first has none left for the second
        (
            "x25519-ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768",
            "x25519-ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768",
            "x25519-ke1_mlkem1024-ke2_mlkem768",
        ),
        # nor may the first key exchange be one of the others
        ("mlkem768-x25519-ke1_mlkem768", "mlkem768-x25519-ke1_mlkem768", "x25519-ke1_mlkem768"),
        # NONE may come as often as it likes
        (
            "x25519-ke1_mlkem768-ke1_none-ke2_mlkem1024-ke2_none",
            "x25519-ke1_none-ke2_none",
            "x25519-ke1_none-ke2_none",
        ),
    ],
)
def test_agreement(offered: str, own: str, result: str) -> None:
    assert chosen(offered, own) == result


@pytest.mark.rfc("9370", "2.2.1", "MUST NOT", "without-intermediate")
def test_without_ike_intermediate_there_is_no_additional_key_exchange() -> None:
    both = "x25519-ke1_mlkem768-ke1_none"
    assert chosen(both, both, additional=False) == "x25519-ke1_none"
    assert chosen("x25519-ke1_mlkem768", both, additional=False) == ""
    assert chosen("x25519", both, additional=False) == "x25519"


@pytest.mark.rfc("9370", "2.2.1", "MUST NOT", "method-twice")
def test_a_peer_that_proposes_one_method_alone_and_twice_is_refused() -> None:
    own = parse_ike_proposal(f"{BASE}-x25519-ke1_mlkem768-ke2_mlkem1024-ke2_mlkem768")
    plain = parse_ike_proposal(f"{BASE}-x25519")
    theirs = Proposal(1, ProtocolId.IKE, b"", (*plain.transforms, *MLKEM_TWICE))
    with pytest.raises(NoProposalChosen):
        choose_proposal((theirs,), (own,), ProtocolId.IKE)


@pytest.mark.rfc("9370", "2.2.1", "MUST", "refuse-twice")
def test_an_answer_with_one_method_twice_is_refused() -> None:
    offered = parse_ike_proposal(f"{BASE}-x25519-ke1_mlkem768-ke2_mlkem768-ke2_none")
    plain = parse_ike_proposal(f"{BASE}-x25519")
    answer = Proposal(1, ProtocolId.IKE, b"", (*plain.transforms, *MLKEM_TWICE))
    with pytest.raises(InvalidSyntax, match="one key exchange method twice"):
        check_chosen((answer,), (offered,))


@pytest.mark.rfc("9370", "2.2.2", "MUST", "in-order")
def test_additional_methods_come_in_the_order_of_their_types_and_none_is_left_out() -> None:
    text = f"{BASE}-x25519-ke5_mlkem768-ke2_x448-ke3_none"
    assert additional_methods(parse_ike_proposal(text)) == (
        KeMethod.CURVE448,
        KeMethod.ML_KEM_768,
    )
