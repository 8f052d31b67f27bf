"""Rules of RFC 9242 and RFC 9370 that other tests do not look at: order, links, last keys."""

import pytest
from forge import ike_sa
from pair import CONNECTION, PSK, make_pair
from post import Post
from transcript import ike_messages, ike_octets, opened

from ipseclab.ike.keys import psk_auth, signed_octets
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.message import decode_message
from ipseclab.wire.payloads import AuthPayload, NotifyPayload

TWICE = "ke1_mlkem768-ke2_x448"
IKE = (parse_ike_proposal(f"aes128gcm16-prfsha256-x25519-{TWICE}"),)
ESP = (parse_esp_proposal("aes128gcm16-x25519-ke1_x448-ke2_ecp256"),)


@pytest.mark.rfc("9242", "3.1", "MUST", "notify-form")
def test_the_notification_is_empty():
    pair = make_pair(both={"ike_proposals": IKE})
    pair.connect()
    kind = NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED
    for sent in pair.sent[:2]:
        assert decode_message(ike_octets(sent)).notify(kind) == NotifyPayload(kind)


@pytest.mark.rfc("9242", "3.2", "MUST", "one-at-a-time")
def test_one_exchange_is_over_before_the_next_begins():
    pair = make_pair(both={"ike_proposals": IKE, "window": 8})
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    for exchange in ("IKE_SA_INIT", "IKE_INTERMEDIATE", "IKE_INTERMEDIATE", "IKE_AUTH"):
        assert post.names == [f"a {exchange} request"]
        post.deliver(f"a {exchange} request")
        assert post.names[0] == f"b {exchange} response"
        post.deliver(f"b {exchange} response")
    assert pair.events("ike_established", 0)


@pytest.mark.rfc("9370", "2.2.3", "MUST", "last-keys")
def test_auth_is_made_with_the_keys_of_the_last_key_exchange():
    pair = make_pair(both={"ike_proposals": IKE})
    pair.connect()
    sa = ike_sa(pair, 0)
    requests = [s for s in ike_messages(pair) if s.is_ike(ExchangeType.IKE_AUTH, response=False)]
    payloads = opened(pair, requests[0])[1]
    identity, auth = payloads[0], next(p for p in payloads if isinstance(p, AuthPayload))
    octets = signed_octets(sa.prf, sa.init_request, sa.nonce_r, sa.keys.sk_pi, identity.encode())
    assert sa.int_auth
    assert auth.data == psk_auth(sa.prf, PSK, octets + sa.int_auth)


@pytest.mark.rfc("9370", "2.2.4", "MUST", "link-copied")
def test_the_link_comes_back_as_it_was_given():
    pair = make_pair(both={"esp_proposals": ESP})
    pair.connect()
    start = len(pair.sent)
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    links = []
    for sent in ike_messages(pair, first=start)[:6]:
        found = [
            p.data
            for p in opened(pair, sent)[1]
            if isinstance(p, NotifyPayload) and p.notify_type == NotifyType.ADDITIONAL_KEY_EXCHANGE
        ]
        links.append(found[0] if found else None)
    assert links[0] is links[5] is None
    assert links[1] == links[2] != b""
    assert links[3] == links[4] != b""
    pair.agreed()
