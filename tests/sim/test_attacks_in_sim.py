"""An attacker between two simulated gateways: what it did against what the receiver counted."""

import pytest
from sim_lab import events, run

from ipseclab.lab.attacks import NothingAttacked
from ipseclab.lab.plan import Ping, Probe
from ipseclab.lab.topology import parse_topology
from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.sweep import Asked, lay_out_sweep

#   h1 - gw1 - mal - gw2 - h2
ATTACKED = """
nodes:
  h1: {kind: host}
  gw1: {kind: gateway}
  mal: {kind: attacker}
  gw2: {kind: gateway}
  h2: {kind: host}
links:
  - {name: lan1, ends: [h1, gw1], addresses: [10.1.0.10/24, 10.1.0.1/24], delay: 1ms}
  - {name: left, ends: [gw1, mal], addresses: [192.0.2.1/24, 192.0.2.2/24], delay: 10ms}
  - {name: right, ends: [mal, gw2], addresses: [198.51.100.2/24, 198.51.100.1/24], delay: 10ms}
  - {name: lan2, ends: [gw2, h2], addresses: [10.2.0.1/24, 10.2.0.10/24], delay: 3ms}
connections:
  - {name: site, initiator: gw1, responder: gw2, psk: secret}
attacks:
"""
PROBES = Probe("probe", "h1", "h2", 1.0, 2.0, 100.0, 200)
"""200 of them."""


def attacked(*attacks, connection="", flows=(PROBES,), seed=1, duration=4.0):
    text = ATTACKED.replace("psk: secret", f"psk: secret, {connection}")
    text += "".join(f"  - {{node: mal, {attack}}}\n" for attack in attacks)
    return run(parse_topology(text), *flows, seed=seed, duration=duration)


def drops(records, node="gw2"):
    found = {}
    for record in events(records, "packet_dropped", node=node):
        reason = record.fields["reason"]
        found[reason] = found.get(reason, 0) + 1
    return found


def received(records):
    return len(events(records, "probe_received"))


# (the attack, packets it struck, drops at the receiver, probes delivered in the end)
DATA = "traffic: data, link: left"
EXACT = {
    "alter payload": (f"do: alter, {DATA}, field: payload, every: 4", 50, {"bad_icv": 50}, 150),
    "alter ICV": (f"do: alter, {DATA}, field: icv, every: 4", 50, {"bad_icv": 50}, 150),
    "alter SPI": (f"do: alter, {DATA}, field: spi, every: 4", 50, {"no_sa": 50}, 150),
    "number raised": (
        f"do: alter, {DATA}, field: sequence, mask: '00010000', every: 4",
        50,
        {"bad_icv": 50},
        150,
    ),
    "replay": (f"do: replay, {DATA}, every: 4, times: 3", 150, {"replayed": 150}, 200),
    "late replay": (
        f"do: replay, {DATA}, nth: [1, 2], delay: 1s",
        2,
        {"replayed": 2},
        200,
    ),
    "reorder in the window": (f"do: reorder, {DATA}, nth: [1, 80], after: 63", 2, {}, 200),
    "reorder beyond it": (
        f"do: reorder, {DATA}, nth: [1, 80], after: 64",
        2,
        {"replayed": 2},
        198,
    ),
    "spoofed copy": (
        f"do: spoof, {DATA}, every: 4, sender: 203.0.113.5",
        50,
        {"replayed": 50},
        200,
    ),
    "forge": (f"do: forge, {DATA}, every: 4, times: 2", 100, {"bad_icv": 100}, 200),
    "forge, too short": (f"do: forge, {DATA}, every: 4, octets: 4", 50, {"malformed": 50}, 200),
    "insert": (
        f"do: insert, {DATA}, every: 4, sender: h1, receiver: h2",
        50,
        {"not_encapsulated": 50},
        200,
    ),
    "insert from anywhere": (
        f"do: insert, {DATA}, every: 4, sender: 203.0.113.5, receiver: h2",
        50,
        {"no_policy": 50},
        200,
    ),
    "drop": (f"do: drop, {DATA}, every: 4", 50, {}, 150),
    "delay": (f"do: delay, {DATA}, every: 4, delay: 5ms", 50, {}, 200),
}


@pytest.mark.parametrize("connection", ["protocol: esp", "encapsulation: forced", "protocol: ah"])
@pytest.mark.parametrize("name", EXACT)
def test_the_receivers_counters_are_what_the_attacker_did(name, connection):
    attack, struck, counted, delivered = EXACT[name]
    records = attacked(attack, connection=connection)
    assert len(events(records, "attack")) == struck
    assert drops(records) == counted
    assert received(records) == delivered
    assert not events(records, "probe_damaged")
    assert not events(records, "probe_forged")


def test_a_wider_window_takes_what_a_narrow_one_refuses():
    attack = f"do: reorder, {DATA}, nth: 1, after: 127"
    assert drops(attacked(attack)) == {"replayed": 1}
    assert drops(attacked(attack, connection="replay_window: 128")) == {}


@pytest.mark.parametrize(("protocol", "counted"), [("ah", {"bad_icv": 50}), ("esp", {})])
def test_the_outer_source_is_covered_by_ah_alone(protocol, counted):
    attack = f"do: alter, {DATA}, field: source, every: 4"
    assert drops(attacked(attack, connection=f"protocol: {protocol}")) == counted


def test_a_wrong_key_at_one_end_lets_nothing_up():
    records = attacked("do: read", connection="responder_psk: another")
    assert events(records, "auth_failed")
    assert not events(records, "child_ready")
    assert received(records) == 0


def test_without_ipsec_it_all_goes_through():
    def plain(attack):
        return attacked(f"{attack}, {DATA}, every: 4", connection="mode: none")

    records = plain("do: alter, field: payload")
    assert (received(records), len(events(records, "probe_damaged"))) == (150, 50)
    assert received(plain("do: replay")) == 250
    records = plain("do: spoof, sender: 10.1.0.66")
    assert received(records) == 250
    spoofed = [r for r in events(records, "probe_received") if "source" in r.fields]
    assert {r.fields["source"] for r in spoofed} == {"10.1.0.66"}
    assert len(spoofed) == 50
    assert len(events(plain("do: forge"), "probe_forged")) == 50
    records = plain("do: insert, sender: h1, receiver: h2")
    assert {r.fields["source"] for r in events(records, "probe_forged")} == {"10.1.0.10"}


@pytest.mark.parametrize(
    ("connection", "clear"),
    [
        ("mode: none", 200),
        ("mode: tunnel", 0),
        ("esp: null-sha256-x25519", 200),
        ("protocol: ah", 200),
    ],
)
def test_what_is_read(connection, clear):
    records = attacked(f"do: read, {DATA}", connection=connection)
    assert [r.fields["clear"] for r in events(records, "attack")] == [clear] * 200


def test_a_downgrade_ends_in_failed_authentication():
    proposals = "ike: [aes256gcm16-prfsha384-x25519, aes128-sha1-prfsha1-modp2048]"
    records = attacked("do: downgrade, strip: aes256gcm16", connection=proposals, flows=())
    sent = events(records, "ike_sent", node="gw1", exchange="IKE_SA_INIT")
    assert len(sent) == 2  # the second with the key that the other proposal wants
    assert {r.fields["do"] for r in events(records, "attack")} == {"downgrade"}
    assert events(records, "auth_failed")
    assert not events(records, "child_ready")
    whole = attacked("do: read", connection=proposals, flows=())
    assert len(events(whole, "child_ready")) == 2


def test_a_stripped_notify_ends_in_failed_authentication():
    attack = "do: downgrade, notify: IKEV2_FRAGMENTATION_SUPPORTED, kind: request"
    records = attacked(attack, flows=())
    assert events(records, "auth_failed")
    assert not events(records, "child_ready")


def test_an_attack_that_befalls_nothing_ends_the_run_with_the_reason():
    with pytest.raises(NothingAttacked, match=r"'spy' at mal befell no packet \(200 crossed"):
        attacked("do: read, name: spy, traffic: esp, nth: 500")
    with pytest.raises(NothingAttacked, match="'alter-1' at mal befell no packet"):
        attacked("do: read", "do: alter, traffic: ah, field: icv")


def test_the_attacker_forwards_and_answers_nothing():
    flows = [Ping("through", "h1", "h2", 1.0, 0.1, 5)]
    records = attacked("do: read", flows=flows)
    assert len(events(records, "ping_received")) == 5
    assert not events(records, "attacker_dropped")


def test_same_seed_same_trace_with_attacks_that_draw():
    attacks = (
        "do: forge, traffic: esp, probability: 0.3",
        "do: drop, traffic: esp, probability: 10%",
    )
    assert attacked(*attacks, seed=5) == attacked(*attacks, seed=5)


EXPERIMENT = """\
topology: {topology}
duration: 4s
worlds: [sim]
attacks:
  - {{name: spy, node: mal, do: read}}
sweep:
  grid:
    - name: what
      values:
        - {{is: second, set: {{attacks.spy.nth: 2}}}}
        - {{is: none, set: {{attacks: []}}}}
        - {{is: drop, set: {{attacks: [{{node: mal, do: drop}}]}}}}
"""


def test_attacks_of_an_experiment_are_swept(tmp_path):
    (tmp_path / "lab.yaml").write_text(ATTACKED.removesuffix("attacks:\n"))
    path = tmp_path / "attacks.yaml"
    path.write_text(EXPERIMENT.format(topology="lab.yaml"))
    jobs = lay_out_sweep(load_experiment(path), Asked("sim", 1)).jobs
    found = [[(a.do, a.nth) for a in job.resolved().attacks] for job in jobs]
    assert found == [[("read", (2,))], [], [("drop", ())]]
