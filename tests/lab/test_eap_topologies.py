"""EAP and PPKs in topology files: what each end is told, and that it works in a simulation."""

import re

import pytest

from ipseclab.emu.peers.strongswan_auth import refuse_unsupported_auth
from ipseclab.errors import ConfigError, EnvironmentLacks
from ipseclab.ike.config import Ppk, PpkUse
from ipseclab.ike.eap.settings import EapAuth, EapDemand, EapOnly
from ipseclab.lab.credentials import make_keyring
from ipseclab.lab.gateways import gateway_config
from ipseclab.lab.plan import Ping, RunPlan
from ipseclab.lab.topology import load_topology
from ipseclab.lab.trace import Trace
from ipseclab.registry import EapType
from ipseclab.sim import network

KEY = {"id": "blue", "key": "32 octets that nobody can guess!"}
PASSWORD = {"password": "through the looking glass"}


def remote(**changed):
    overrides = {f"connections.alice.{key}": value for key, value in changed.items()}
    return load_topology("remote-access").with_overrides(overrides)


def ends(topology):
    keys = make_keyring(topology)
    configs = [gateway_config(topology, node, keyring=keys) for node in ("laptop", "gate")]
    return [config.ike.connections[0] for config in configs]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"auth": ["eap-mschapv2", "psk"], "psk": "of the gate"},
        {"auth": ["eap-md5", "certificate"]},
        {"eap": {**PASSWORD, "identity": "LAB\\alice", "ask_identity": True}},
        {"auth": ["eap-tls", "certificate"], "eap": {}},
        {"auth": ["eap-tls", "eap-only"], "eap": {"versions": ["1.3"]}},
        {"auth": ["eap-tls", "certificate"], "eap": {}, "revocation": "crl"},
        {"ppk": {**KEY, "required": True}},
        {"ppk": {**KEY, "required": True, "use": "intermediate", "rekeys": True}},
    ],
)
def test_remote_access_in_a_simulation(changed):
    trace = Trace()
    plan = RunPlan((Ping("p", "laptop", "server", 1.0, 0.1, 3),), duration=3.0)
    network.run(remote(**changed), plan, seed=1, trace=trace)
    up = [record.node for record in trace.records if record.event == "ike_established"]
    assert sorted(up) == ["gate", "laptop"]
    assert sum(record.event == "ping_received" for record in trace.records) == 3


def test_what_each_end_is_told():
    laptop, gate = ends(remote())
    (own,), (demand,) = laptop.own_rounds, gate.peer_rounds
    assert isinstance(own, EapAuth)
    assert isinstance(demand, EapDemand)
    assert own.methods == demand.methods == (EapType.MSCHAPV2,)
    assert demand.accounts == (("alice@example.org", PASSWORD["password"]),)
    laptop, gate = ends(remote(auth=["eap-tls", "eap-only"], eap={}))
    assert laptop.peer_rounds == gate.own_rounds == (EapOnly(),)
    assert laptop.own_rounds[0].tls.demand == gate.peer_rounds[0].tls.demand


def test_ppk_of_both_ends():
    laptop, gate = ends(remote(ppk={"id": "blue", "key": "k"}))
    assert laptop.ppks == gate.ppks == (Ppk(b"blue", b"k"),)
    assert not laptop.ppk_required


def test_ppks_of_each_end():
    keys = [{"id": name, "key": f"key of {name}"} for name in ("a", "b")]
    more = {"use": "either", "rekeys": True}
    laptop, gate = ends(remote(ppk={"initiator": keys, "responder": keys[1:], **more}))
    assert [ppk.identity for ppk in laptop.ppks] == [b"a", b"b"]
    assert gate.ppks == laptop.ppks[1:]
    assert {(end.ppk_use, end.ppk_rekeys) for end in (laptop, gate)} == {(PpkUse.EITHER, True)}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"eap": {}}, r"eap\.password: missing, expected the password as a text"),
        ({"auth": ["certificate", "eap-mschapv2"]}, r"auth: eap-mschapv2 of the responder"),
        ({"auth": ["eap-only", "certificate"]}, r"auth: eap-only, expected it in \[eap-tls"),
        ({"auth": ["eap-mschapv2", "eap-only"]}, r"auth: eap-only, expected it in \[eap-tls"),
        ({"auth": ["eap-tls", "certificate"], "revocation": "ocsp"}, r"revocation: ocsp, which"),
        ({"eap": {"versions": ["1.1"]}}, r"versions"),
        ({"eap": {"pasword": "x"}}, r"pasword"),
        ({"eap": {**PASSWORD, "identity": "bob"}}, r"eap\.identity: 'bob', which nobody asks for"),
        ({"ppk": {"id": "blue"}}, r"ppk: expected id and key, or lists"),
        ({"ppk": {"required": True}}, r"ppk: expected id and key, or lists"),
        ({"ppk": {**KEY, "responder": [KEY]}}, r"ppk: expected id and key, or lists"),
        ({"ppk": {**KEY, "use": "never"}}, r"ppk\.use"),
        ({"ppk": {**KEY, "rekeys": True}}, r"ppk: rekeys: expected use: intermediate or"),
    ],
)
def test_what_makes_no_sense_is_refused(changed, problem):
    with pytest.raises(ConfigError) as refused:
        remote(**changed)
    assert re.search(problem, str(refused.value)), refused.value
    assert "\n" not in str(refused.value)


def test_strongswan_has_no_eap_tls_with_tls_1_3_alone():
    for versions, refused in ((["1.2", "1.3"], False), (["1.3"], True)):
        for end in ends(remote(auth=["eap-tls", "certificate"], eap={"versions": versions})):
            try:
                refuse_unsupported_auth(end)
            except EnvironmentLacks:
                assert refused
            else:
                assert not refused
