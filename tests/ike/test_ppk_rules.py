"""RFC 8784 notification by notification: what it holds, and peers that say something else."""

import pytest
from forge import forge, ike_sa, receive
from pair import make_pair
from post import Post
from transcript import opened, transcript

from ipseclab.ike.config import Ppk
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.payloads import AuthPayload, NotifyPayload

BLUE = Ppk(b"blue", b"a key of 32 octets and some more")
IDENTITY, WITHOUT = NotifyType.PPK_IDENTITY, NotifyType.NO_PPK_AUTH


def in_auth(**options):
    """IKE_SA_INIT is through; the pair, the post, and the IKE_AUTH request's payloads."""
    pair = make_pair(both={"ppks": (BLUE,)}, **options)
    post = Post(pair)
    pair.do(0, "initiate", "site")
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    return pair, post, opened(pair, post.held[0])[1]


def named(payloads, kind):
    return [p for p in payloads if isinstance(p, NotifyPayload) and p.notify_type == kind]


@pytest.mark.rfc("8784", "3", "MUST", "answer-use-ppk")
def test_use_ppk_is_not_said_unasked():
    pair = make_pair(b={"ppks": (BLUE,)})
    pair.connect()
    assert not any("USE_PPK" in line for line in transcript(pair))


@pytest.mark.rfc("8784", "3", "MUST", "confirmed")
@pytest.mark.rfc("8784", "5.1", "MUST", "id-type")
def test_what_the_notifications_hold():
    pair, post, request = in_auth()
    assert [p.data for p in named(request, IDENTITY)] == [b"\x02blue"]
    assert len(named(request, WITHOUT)) == 1
    post.deliver("a IKE_AUTH request")
    assert [p.data for p in named(opened(pair, post.held[0])[1], IDENTITY)] == [b""]


@pytest.mark.rfc("8784", "5.1", "MUST", "id-unknown-type")
@pytest.mark.parametrize("identity", [b"\x01blue", b"\x03blue", b"blue", b""])
def test_an_identity_of_another_type_names_no_ppk(identity):
    pair, post, request = in_auth()
    post.take("a IKE_AUTH request")
    other = NotifyPayload(IDENTITY, identity)
    changed = [other if p in named(request, IDENTITY) else p for p in request]
    (answer,) = receive(pair, 1, forge(pair, 0, ExchangeType.IKE_AUTH, *changed, message_id=1))
    assert not named(opened(pair, answer)[1], IDENTITY)
    assert pair.events("ike_established", 1)  # by NO_PPK_AUTH


@pytest.mark.rfc("8784", "3", "MUST", "confirmed-used")
@pytest.mark.parametrize("confirmed", [True, False])
def test_a_confirmation_is_believed_only_with_its_auth(confirmed):
    """AUTH without the PPK beside a confirmation, or with it beside none, does not verify."""
    pair, post, request = in_auth()
    if confirmed:  # b does not know it, and says that it does
        without = [p for p in request if p not in named(request, IDENTITY)]
        (auth,) = named(request, WITHOUT)
        plain = [
            AuthPayload(p.method, auth.data) if isinstance(p, AuthPayload) else p for p in without
        ]
        post.take("a IKE_AUTH request")
        receive(pair, 1, forge(pair, 0, ExchangeType.IKE_AUTH, *plain, message_id=1))
    else:
        post.deliver("a IKE_AUTH request")
    answer = opened(pair, post.take("b IKE_AUTH response"))[1]
    assert bool(named(answer, IDENTITY)) is not confirmed
    others = [p for p in answer if p not in named(answer, IDENTITY)]
    said = (NotifyPayload(IDENTITY),) if confirmed else ()
    octets = forge(pair, 1, ExchangeType.IKE_AUTH, *others, *said, message_id=1, response=True)
    receive(pair, 0, octets)
    assert not pair.events("ike_established", 0)
    assert pair.events("auth_failed", 0)


@pytest.mark.rfc("8784", "3", "MUST", "not-confirmed")
def test_an_initiator_that_needs_the_ppk_does_not_go_on_without():
    pair, post, request = in_auth(a={"ppk_required": True})
    post.deliver("a IKE_AUTH request")
    answer = opened(pair, post.take("b IKE_AUTH response"))[1]
    silent = [p for p in answer if p not in named(answer, IDENTITY)]
    sa = ike_sa(pair, 1)
    octets = forge(pair, 1, ExchangeType.IKE_AUTH, *silent, message_id=1, response=True, sa=sa)
    receive(pair, 0, octets)
    (failed,) = pair.events("auth_failed", 0)
    assert "PPK is required" in failed.details["reason"]
    assert not named(request, WITHOUT)
