"""Every kind of ESP suite agreed on by IKE and used: ciphers, MACs, extended sequence numbers."""

import pytest
from pair import CONNECTION, make_pair

from ipseclab.ike.proposals import parse_ah_proposal, parse_esp_proposal

SUITES = (
    "aes128gcm16-esn",
    "aes256-sha512-esn",
    "aes192gcm8",
    "aes256ccm12-x25519",
    "aes128gmac",
    "aes256gcm16iiv-esn",
    "aes128ccm8iiv",
    "chacha20poly1305iiv",
    "aes256ctr-aesxcbc",
    "3des-sha1",
    "null-aescmac-esn",
)


@pytest.mark.parametrize("text", SUITES)
def test_suite_is_agreed_on_and_works(text):
    pair = make_pair(both={"esp_proposals": (parse_esp_proposal(text),)})
    pair.do(0, "initiate", CONNECTION)
    pair.run(1.0)
    pair.do(1, "rekey_child", CONNECTION)
    pair.run(10.0)
    pair.agreed()
    for gateway in pair.gateways:
        (entry,) = gateway.datapath.sad
        assert entry.parameters.esn == ("esn" in text)


def test_extended_sequence_numbers_are_preferred_and_given_up():
    both = (parse_esp_proposal("aes128gcm16-esn-noesn"),)
    only_short = (parse_esp_proposal("aes128gcm16"),)
    for other, esn in ((both, True), (only_short, False)):
        pair = make_pair(a={"esp_proposals": both}, b={"esp_proposals": other})
        pair.do(0, "initiate", CONNECTION)
        pair.run(1.0)
        pair.agreed()
        assert [e.parameters.esn for g in pair.gateways for e in g.datapath.sad] == [esn, esn]


@pytest.mark.parametrize("text", ["sha256-x25519", "sha1-esn", "aesxcbc", "aes256gmac"])
def test_ah_is_agreed_on_and_works(text):
    pair = make_pair(both={"esp_proposals": (parse_ah_proposal(text),)})
    pair.do(0, "initiate", CONNECTION)
    pair.run(1.0)
    pair.do(1, "rekey_child", CONNECTION)
    pair.run(10.0)
    pair.agreed()
    assert all(entry.ah for gateway in pair.gateways for entry in gateway.datapath.sad)
    pair.do(0, "delete_child", CONNECTION)
    pair.run(10.0)
    assert not any(len(gateway.datapath.sad) for gateway in pair.gateways)


def test_ah_and_esp_do_not_agree():
    pair = make_pair(a={"esp_proposals": (parse_ah_proposal("sha256"),)})
    pair.do(0, "initiate", CONNECTION)
    pair.run(1.0)
    assert pair.spis(0) == pair.spis(1) == set()
