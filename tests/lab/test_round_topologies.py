"""Several rounds of authentication (RFC 4739) in topology files: who says what, and who gets in."""

import json
import re

import pytest

from ipseclab.emu.peers.strongswan_auth import auth_sections, load_credentials
from ipseclab.errors import ConfigError
from ipseclab.ike.config import NULL_IDENTITY, SharedKeyAuth
from ipseclab.ike.credentials import CertificateAuth
from ipseclab.ike.eap.settings import EapAuth
from ipseclab.lab.credentials import make_keyring
from ipseclab.lab.gateways import gateway_config
from ipseclab.lab.identities import identity
from ipseclab.lab.plan import Ping, RunPlan
from ipseclab.lab.schema import topology_schema
from ipseclab.lab.topology import load_topology
from ipseclab.lab.trace import Trace
from ipseclab.sim import network

PLAN = RunPlan((Ping("p", "laptop", "server", 1.0, 0.1, 3),), duration=3.0)
PASSWORD = {"password": "through the looking glass"}
IDS = [["laptop.example.org", "alice@example.org"], "gate.example.org"]


def remote(**changed):
    overrides = {f"connections.alice.{key}": value for key, value in changed.items()}
    return load_topology("remote-access-two-rounds").with_overrides(overrides)


def ran(topology):
    trace = Trace()
    network.run(topology, PLAN, seed=1, trace=trace)
    return trace.records


def ends(topology):
    keys = make_keyring(topology)
    configs = [gateway_config(topology, node, keyring=keys) for node in ("laptop", "gate")]
    return [config.ike.connections[0] for config in configs]


@pytest.mark.parametrize(
    ("changed", "exchanges"),
    [
        ({}, 5),
        ({"auth": [["psk", "eap-mschapv2"], "psk"], "psk": "of the lab"}, 5),
        ({"auth": [["eap-mschapv2", "certificate"], "certificate"]}, 5),
        ({"auth": [["psk", "eap-md5"], "certificate"], "psk": "of the lab"}, 4),
        ({"auth": [["certificate", "psk"], ["certificate", "psk"]], "psk": "of the lab"}, 2),
        ({"auth": ["psk", ["psk", "raw-key"]], "psk": "of the lab", "ids": ["a", "b"]}, 2),
        ({"auth": [["anonymous", "certificate"], "raw-key"]}, 2),
        ({"auth": [["certificate", "raw-key", "psk"], "certificate"], "psk": "k",
          "ids": ["machine", "gate"]}, 3),
        ({"auth": [["certificate", "eap-mschapv2"], "certificate"], "ids": ["laptop", "gate"],
          "eap": {**PASSWORD, "identity": "alice", "ask_identity": True}}, 6),
    ],
)  # fmt: skip
def test_all_rounds_are_taken(changed, exchanges):
    records = ran(remote(**changed))
    up = [record.node for record in records if record.event == "ike_established"]
    assert sorted(up) == ["gate", "laptop"]
    assert sum(record.event == "ping_received" for record in records) == 3
    sent = [
        record.fields["message_id"]
        for record in records
        if record.event == "ike_sent"
        and record.node == "laptop"
        and record.fields["exchange"] == "IKE_AUTH"
    ]
    assert len(set(sent)) == exchanges


def test_rounds_by_eap_tls_after_a_key():
    """Not among the others: OpenSSL decides how many exchanges TLS takes."""
    records = ran(remote(auth=[["psk", "eap-tls"], "certificate"], psk="of the lab", eap={}))
    assert sum(record.event == "ike_established" for record in records) == 2
    assert sum(record.event == "ping_received" for record in records) == 3


@pytest.mark.parametrize("auth", [["certificate", "psk"], ["psk", "certificate"]])
def test_one_round_that_fails_is_enough_to_be_kept_out(auth):
    """Whichever of the two it is; the trace names it."""
    topology = remote(auth=[auth, "psk"], psk="of the lab", revocation="crl")
    assert sum(one.event == "ping_received" for one in ran(topology)) == 3
    records = ran(topology.with_overrides({"certificates.nodes.laptop.revoked": True}))
    assert not [one for one in records if one.event in ("ike_established", "ping_received")]
    (reason,) = {one.fields["reason"] for one in records if one.event == "ike_error_sent"}
    assert "revoked" in reason


def test_each_round_has_its_own_identity():
    laptop, gate = ends(remote())
    assert laptop.own_id == gate.peer_id == identity("laptop.example.org")
    machine, user = laptop.own_rounds
    assert isinstance(machine, CertificateAuth)
    assert isinstance(user, EapAuth)
    assert (machine.identity, user.identity) == (None, identity("alice@example.org"))
    assert gate.peer_rounds[1].identity == user.identity
    assert gate.peer_rounds[1].accounts == (("alice@example.org", PASSWORD["password"]),)
    laptop, gate = ends(remote(auth=[["anonymous", "certificate"], "raw-key"], ids=["x", "y"]))
    assert laptop.own_id == gate.peer_id == NULL_IDENTITY
    assert laptop.own_rounds[1].identity == gate.peer_rounds[1].identity == identity("x")


def test_certificates_are_in_the_names_of_the_rounds_that_show_them():
    plans = remote().certificates
    assert plans["laptop"].names == ("laptop.example.org",)
    assert plans["gate"].names == ("gate.example.org",)


def test_one_way_alone_is_written_as_before():
    words = [remote(auth=word, psk="k", ids=["a", "b"]).connections[0].rounds
             for word in ("psk", ["psk", "psk"], [["psk"], ["psk"]])]  # fmt: skip
    assert words[0] == words[1] == words[2]


class Session:
    """Takes what charon is given over vici."""

    def __init__(self):
        self.shared = []

    def load_shared(self, what):
        self.shared.append(what)

    def load_key(self, what): ...

    def load_cert(self, what): ...


def test_strongswan_is_told_each_round():
    laptop, gate = ends(remote(auth=[["psk", "eap-mschapv2"], "psk"], psk="of the lab"))
    sections = auth_sections(laptop)
    assert sections["local-1"] == {"id": "laptop.example.org", "auth": "psk"}
    assert sections["local-2"] == {"id": "alice@example.org", "auth": "eap-mschapv2"}
    assert auth_sections(gate)["remote-2"] == {"id": "alice@example.org", "auth": "eap-mschapv2"}
    session = Session()
    load_credentials(session, laptop)
    assert [one["owners"] for one in session.shared if one["type"] == "EAP"] == [
        ["alice@example.org"]
    ]
    second = ends(remote(auth=[["certificate", "psk"], "certificate"], psk="of the lab"))[1]
    assert isinstance(second.peer_rounds[1], SharedKeyAuth)
    session = Session()
    load_credentials(session, second)
    (shared,) = session.shared
    assert "alice@example.org" in shared["owners"]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"auth": [["certificate", "certificate"], "psk"], "psk": "k"},
            r"certificate twice of one end",
        ),
        ({"auth": [[], "certificate"]}, r"auth\.\[0\]: a list here, expected at least 1 item"),
        ({"auth": [["certificate", "cert"], "psk"]}, r"auth\.\[0\]\[1\]: 'cert' is unknown"),
        (
            {"auth": ["certificate", ["certificate", "eap-md5"]], "ids": ["a", "b"]},
            r"eap-md5 of the responder",
        ),
        ({"auth": [["psk", "eap-tls"], ["eap-only", "psk"]], "psk": "k"}, r"auth: eap-only,"),
        ({"auth": [["psk", "eap-tls"], "eap-only"], "psk": "k"}, r"auth: eap-only, expected it"),
        ({"auth": [["certificate", "psk"], "certificate"]}, r"psk: missing"),
        (
            {"auth": [["psk", "certificate", "raw-key"], "psk"], "psk": "k"},
            r"ids\[0\]: 2 identities, expected one, or as many as rounds \(3\)",
        ),
        (
            {"ids": [IDS[0], ["a", "b"]]},
            r"ids\.\[1\]: 2 identities, expected one, or as many as rounds \(1\)",
        ),
        ({"eap": {}}, r"eap\.password: missing"),
        ({"eap": {**PASSWORD, "identity": "bob"}}, r"eap\.identity: 'bob', which nobody asks"),
    ],
)
def test_rounds_that_make_no_sense_are_refused(changed, problem):
    with pytest.raises(ConfigError) as refused:
        remote(**changed)
    assert re.search(problem, str(refused.value)), refused.value
    assert "\n" not in str(refused.value)


def test_the_schema_has_words_pairs_and_lists():
    properties = topology_schema()["$defs"]["ConnectionFile"]["properties"]
    word, pair = properties["auth"]["anyOf"]
    assert "eap-mschapv2" in word["enum"]
    assert {json.dumps(one, sort_keys=True) for one in pair["items"]["anyOf"]} >= {
        json.dumps(word, sort_keys=True)
    }
