"""Case 27, its certificates: each that may not be believed is refused by the right Notify, and the
trace says why; in whole simulated labs, the bad one at the initiator or at the responder.

What `ike.trust` finds beyond these is in tests/ike/test_trust.py.
"""

from __future__ import annotations

import random
import re

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sim_lab import events, run

from ipseclab.ike.credentials import LAB_EPOCH
from ipseclab.lab.credentials import make_keyring
from ipseclab.lab.impairment import derive
from ipseclab.lab.pki import CERTIFICATE_DAYS, Validity, make_authority
from ipseclab.lab.plan import Ping
from ipseclab.lab.topology import load_topology
from ipseclab.registry import CertEncoding

SEED = 1
GATEWAYS = ("gw1", "gw2")
NODE, SITE = "certificates.nodes.{node}.", "connections.site."
CHAIN = {f"certificates.authorities.a{n}": {"issuer": f"a{n - 1}"} for n in range(2, 6)}
LONG = {"certificates.authorities.a1": {"issuer": "root"}, **CHAIN}
STRANGERS = {
    "certificates.authorities.x": {"trusted": False},
    "certificates.authorities.y": {"trusted": False},
}

BAD = {
    "expired": (
        {NODE + "valid": [-30, -1]},
        r"of CN={node},O=ipseclab expired at 2025-12-31",
    ),
    "not yet valid": ({NODE + "valid": [1, 30]}, r"CN={node},O=ipseclab is not valid before 2026"),
    "revoked, by CRL": ({NODE + "revoked": True}, r"CN={node},O=ipseclab was revoked at"),
    "revoked, by OCSP": (
        {NODE + "revoked": True, SITE + "revocation": "ocsp"},
        r"CN={node},O=ipseclab was revoked at",
    ),
    "wrong name": (
        {NODE + "names": ["mallory.example.org"]},
        r"is not for ID_FQDN {node}.example.org; its alternative names: mallory.example.org",
    ),
    "wrong issuer": (
        {**STRANGERS, NODE + "issuer": "x"},
        r"CN={node},O=ipseclab: issuer CN=x,O=ipseclab is not a trusted authority",
    ),
    "weak key": ({NODE + "key": "rsa-1024"}, r"RSA key of 1024 bits, at least 2048 wanted"),
    "wrong extended usage": (
        {NODE + "usage": "code-signing"},
        r"extended key usage 1\.3\.6\.1\.5\.5\.7\.3\.3, one of ipsecIKE",
    ),
    "wrong usage": ({NODE + "signs": False}, r"key usage without digitalSignature"),
    "chain too long": (
        {**LONG, NODE + "issuer": "a5"},
        r"chain too long: more than 4 certificates",
    ),
    "chain longer than its authority allows": (
        {"certificates.authorities.under": {"issuer": "sites"}, NODE + "issuer": "under"},
        r"chain too long: 1 authorities below CN=sites,O=ipseclab, which allows 0",
    ),
    "loop": (
        {**STRANGERS, NODE + "issuer": "x"},
        r"loop: CN=y,O=ipseclab is issued by CN=x,O=ipseclab, which stands below it",
    ),
}
"""What the topology says of it, and the reason that the other end gives."""

TOPOLOGY = load_topology("site-to-site-certificates")


def made(kind, node):
    settings = {key.format(node=node): value for key, value in BAD[kind][0].items()}
    lab = TOPOLOGY.with_overrides(settings)
    if kind != "loop":
        return lab
    whole = {SITE + "fragmentation": {"enabled": False}, "links.wan.mtu": 9000}
    return lab.with_overrides({"faults": looping(lab, node), **whole})


def looping(lab, node):
    """x and y, whom nobody trusts, have issued each other; `node` sends both certificates along."""
    keys = make_keyring(lab, generators=lambda name: derive(SEED, "pki", name))
    valid = Validity.of_days(LAB_EPOCH, CERTIFICATE_DAYS)
    strangers = keys.authorities
    crossed = [
        make_authority(
            own, strangers[own].private, valid, rng=random.Random(own), issuer=strangers[other]
        )
        for own, other in ("xy", "yx")
    ]
    bodies = [
        bytes([CertEncoding.X509_SIGNATURE]) + one.certificate.public_bytes(Encoding.DER)
        for one in crossed
    ]
    return [
        {"node": node, "do": "add", "payload": "CERT", "exchange": "IKE_AUTH", "data": body.hex()}
        for body in bodies
    ]


def refused(kind, node):
    """The trace of a run in which `node` has the bad certificate."""
    return run(made(kind, node), Ping("p", "h1", "h2", start=1.0, count=2), duration=4.0, seed=SEED)


@pytest.mark.parametrize("node", GATEWAYS)
@pytest.mark.parametrize("kind", BAD)
def test_case_27_certificate_is_refused_and_the_trace_says_why(kind, node):
    records = refused(kind, node)
    reason = BAD[kind][1].format(node=node)
    judge = GATEWAYS[1 - GATEWAYS.index(node)]
    assert not events(records, "ping_received")
    assert not events(records, "child_ready", node=judge)
    assert not events(records, "ike_established", node=judge)
    if node == "gw1":
        told = events(records, "ike_error_sent", node="gw2")
        assert {record.fields["notify"] for record in told} == {"AUTHENTICATION_FAILED"}
        answers = events(records, "auth_failed", node="gw1")
        assert {record.fields["reason"] for record in answers} == {"AUTHENTICATION_FAILED"}
    else:
        told = events(records, "auth_failed", node="gw1")
        # RFC 7296 section 2.21.2: an initiator says so in an exchange of its own.
        gone = events(records, "ike_gone", node="gw2")
        assert {record.fields["reason"] for record in gone} == {
            "the peer refused our IKE_AUTH response"
        }
    assert told
    for record in told:
        assert re.search(reason, str(record.fields["reason"])), record.fields["reason"]


def test_case_27_the_same_labs_with_good_certificates_work():
    """What makes the labs above bad is what they say, not how they are made."""
    good = {
        NODE + "valid": [-30, 30],
        NODE + "names": ["{node}.example.org"],
        NODE + "usage": "ipsec",
        NODE + "key": "rsa-2048",
        "certificates.authorities.a1": {"issuer": "root"},
        "certificates.authorities.a2": {"issuer": "a1"},
        "certificates.authorities.a3": {"issuer": "a2"},
        NODE + "issuer": "a3",
    }
    for node in GATEWAYS:
        named = {
            key.format(node=node): [text.format(node=node) for text in value]
            if key.endswith("names")
            else value
            for key, value in good.items()
        }
        records = run(
            TOPOLOGY.with_overrides(named),
            Ping("p", "h1", "h2", start=1.0, count=2),
            duration=4.0,
            seed=SEED,
        )
        assert len(events(records, "ping_received")) == 2
