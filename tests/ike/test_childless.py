"""IKE_SAs that begin without a CHILD_SA (RFC 6023)."""

import pytest
from pair import make_pair
from transcript import transcript

from ipseclab.ike.config import Childless
from ipseclab.ike.proposals import parse_esp_proposal

PREFER, ALLOW, NEVER = {"childless": Childless.PREFER}, {}, {"childless": Childless.NEVER}
WITH_KE = {"esp_proposals": (parse_esp_proposal("aes128gcm16-x25519"),)}


@pytest.mark.rfc("9370", "2.2.5", "SHOULD", "childless")
def test_first_child_sa_is_made_afterwards_with_keys_of_its_own():
    pair = make_pair(both=WITH_KE, a=PREFER)
    pair.connect()
    lines = transcript(pair)
    assert [line.split(":")[0].split()[-1] for line in lines] == [
        "IKE_SA_INIT",
        "IKE_SA_INIT",
        "IKE_AUTH",
        "IKE_AUTH",
        "CREATE_CHILD_SA",
        "CREATE_CHILD_SA",
    ]
    assert "TSi" not in lines[2] + lines[3]
    assert "KEi" in lines[4] or "KE" in lines[4]
    pair.agreed()


def test_packet_that_set_it_up_gets_through():
    pair = make_pair(a=PREFER)
    packet = pair.send(0)
    pair.run(1.0)
    assert pair.delivered[1] == [packet]
    pair.agreed()


def test_child_sa_goes_with_ike_auth_where_the_responder_does_not_offer_otherwise():
    pair = make_pair(a=PREFER, b=NEVER)
    pair.connect()
    assert len(transcript(pair)) == 4
    pair.agreed()


@pytest.mark.parametrize("responder", [ALLOW, PREFER])
def test_responder_alone_does_not_decide(responder):
    pair = make_pair(b=responder)
    pair.connect()
    assert len(transcript(pair)) == 4
    pair.agreed()
