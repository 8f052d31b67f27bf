"""Keys and certificates that a topology asks for: made alike from a seed, used by its gateways."""

import random

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ipseclab.errors import ConfigError
from ipseclab.ike.config import NULL_IDENTITY, NullAuth, SharedKeyAuth
from ipseclab.ike.credentials import (
    CertificateAuth,
    CertificateDemand,
    RawKeyAuth,
    RawKeyDemand,
)
from ipseclab.lab.credentials import EMPTY, make_keyring
from ipseclab.lab.gateways import gateway_config
from ipseclab.lab.impairment import derive
from ipseclab.lab.topology import load_topology, parse_topology

TOPOLOGY = load_topology("site-to-site-certificates")


def keyring(topology, seed=1):
    return make_keyring(topology, generators=lambda name: derive(seed, "pki", name))


def rounds(topology, node):
    (connection,) = gateway_config(topology, node, keyring=keyring(topology)).ike.connections
    (own,), (peer,) = connection.own_rounds, connection.peer_rounds
    return own, peer


def changed(**overrides):
    return TOPOLOGY.with_overrides({k.replace("__", "."): v for k, v in overrides.items()})


def octets(keys):
    return {
        node: [item.public_bytes(Encoding.DER) for item in own.chain]
        for node, own in keys.certificates.items()
    }


def test_same_seed_same_certificates_and_another_seed_others():
    assert octets(keyring(TOPOLOGY)) == octets(keyring(TOPOLOGY))
    assert octets(keyring(TOPOLOGY)) != octets(keyring(TOPOLOGY, seed=2))


def test_both_ends_have_certificates_and_demand_them():
    for node in ("gw1", "gw2"):
        own, peer = rounds(TOPOLOGY, node)
        assert isinstance(own, CertificateAuth)
        assert len(own.chain) == 2  # its own, and the authority's below the root
        assert isinstance(peer, CertificateDemand)
        assert len(peer.authorities) == 1
        assert peer.revocation_required
        assert len(peer.crls) == 2


def test_lab_with_pre_shared_keys_draws_nothing():
    def refuse(name):
        raise AssertionError(name)

    topology = load_topology("site-to-site")
    assert make_keyring(topology, generators=refuse) is EMPTY
    (connection,) = gateway_config(topology, "gw1").ike.connections
    assert connection.own_auth == ()


@pytest.mark.parametrize(
    ("word", "own_kind", "peer_kind"),
    [
        ("raw-key", RawKeyAuth, RawKeyDemand),
        ("psk", SharedKeyAuth, SharedKeyAuth),
        ("certificate", CertificateAuth, CertificateDemand),
    ],
)
def test_words_for_ways_to_authenticate(word, own_kind, peer_kind):
    topology = changed(connections__site__auth=[word, "certificate"], connections__site__psk="x")
    own, peer = rounds(topology, "gw1")
    assert isinstance(own, own_kind)
    assert isinstance(peer, CertificateDemand)
    own, peer = rounds(topology, "gw2")
    assert isinstance(own, CertificateAuth)
    assert isinstance(peer, peer_kind)


def test_anonymous_initiator_has_no_identity():
    topology = changed(connections__site__auth=["anonymous", "certificate"])
    for node, key in (("gw1", "own_id"), ("gw2", "peer_id")):
        (connection,) = gateway_config(topology, node).ike.connections
        assert getattr(connection, key) == NULL_IDENTITY
    assert isinstance(rounds(topology, "gw1")[0], NullAuth)


def test_wishes_about_a_nodes_certificate():
    topology = changed(
        certificates__nodes__gw1__key="ed448",
        certificates__nodes__gw1__names=["192.0.2.1", "a@example.org"],
        certificates__nodes__gw1__valid=[-10, -5],
        certificates__nodes__gw1__revoked=True,
        connections__site__signatures="ed448",
    )
    keys = keyring(topology)
    own = keys.certificates["gw1"]
    certificate = own.certificate
    assert type(own.private).__name__ == "Ed448PrivateKey"
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 5
    issuer_list = keys.crls[1]
    assert issuer_list.get_revoked_certificate_by_serial_number(certificate.serial_number)
    auth, _ = rounds(topology, "gw1")
    assert auth.schemes == ("ed448",)


def test_generators_of_the_system_make_keys_too():
    keys = make_keyring(TOPOLOGY, generators=lambda _name: random.SystemRandom())
    assert octets(keys) != octets(keyring(TOPOLOGY))


BAD = {
    "unknown way": ("auth: certificate", "auth: cert", "connections[0].auth"),
    "psk that is missing": ("auth: certificate", "auth: psk", "psk: missing"),
    "unknown scheme": ("revocation: crl", "signatures: ed2559", "did you mean 'ed25519'?"),
    "unknown kind of key": ("key: ed25519", "key: dsa", "certificates.nodes.gw2.key"),
    "unknown node": ("gw2: {issuer", "gw3: {issuer", "'gw3' is not a node, did you mean"),
    "unknown issuer": (
        "issuer: sites, key", "issuer: sits, key", "'sits' is not an authority, did you mean",
    ),
    "issuer that is not there": (
        "issuer: root, path", "issuer: rot, path", "authorities.sites.issuer: 'rot' is not",
    ),
    "a circle": ("root: {valid", "root: {issuer: sites, valid", "expected no circle"),
    "days the wrong way": ("valid: [-1, 3650]", "valid: [9, 3]", "9 is not before 3"),
    "a name that is no ASCII": ("{issuer: sites}", "{names: [gẅ]}", "is not ASCII"),
    "unknown key": ("{issuer: sites}", "{isuer: sites}", "certificates.nodes.gw1.isuer"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_certificates_are_named_with_their_place(what):
    old, new, why = BAD[what]
    text = open_text()
    assert text.count(old) == 1
    changed_text = text.replace(old, new)
    with pytest.raises(ConfigError) as caught:
        parse_topology(changed_text, "lab.yaml")
    message = str(caught.value)
    assert why in message
    assert "\n" not in message
    file, line, column, *_rest = message.split(":")
    assert file == "lab.yaml"
    stated = changed_text.splitlines()[int(line) - 1]
    assert new.split(":", maxsplit=1)[0].strip("{ ") in stated or what == "psk that is missing"
    assert int(column) >= 1


def open_text():
    """The topology's text, without its list's comments."""
    with open(TOPOLOGY.source.file, encoding="utf-8") as file:
        return file.read()


def test_defaults_of_a_certificate():
    plan = TOPOLOGY.certificate_of("gw2")
    assert (plan.issuer, plan.key, plan.names) == ("sites", "ed25519", ("gw2.example.org",))
    bare = open_text().split("certificates:")[0].replace("    revocation: crl\n", "")
    topology = parse_topology(bare)
    assert [authority.name for authority in topology.authorities] == ["lab-ca"]
    plan = topology.certificate_of("gw1")
    assert (plan.issuer, plan.key, plan.names) == ("lab-ca", "ecdsa-p256", ("gw1.example.org",))
