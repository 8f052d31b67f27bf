"""Faults of a topology and of an experiment, in a simulated lab."""

import pytest
from sim_lab import SITES, events, run, topology

from ipseclab.errors import ConfigError
from ipseclab.lab.plan import Action, Ping
from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.sweep import Asked, lay_out_sweep
from ipseclab.present.ladder import ladder

LOST = (
    SITES
    + """
faults:
  - {node: gw1, do: drop, exchange: IKE_AUTH, nth: 1}
  - {node: gw2, do: answer_late, exchange: IKE_SA_INIT, delay: 300ms}
"""
)


def test_faults_of_a_topology_strike_in_a_run():
    records = run(topology(LOST), duration=10.0)
    assert ladder(records) == [
        "I --> R  IKE_SA_INIT request 0",
        "I <-- R  IKE_SA_INIT response 0",
        "I --x R  IKE_AUTH request 1",
        "I --> R  IKE_AUTH request 1 (again)",
        "I <-- R  IKE_AUTH response 1",
    ]
    struck = {(record.node, record.fields["fault"]) for record in events(records, "fault")}
    assert struck == {("gw1", "drop-0"), ("gw2", "answer_late-1")}
    (answered,) = events(records, "ike_received", node="gw1", exchange="IKE_SA_INIT")
    assert answered.t == pytest.approx(0.34, abs=0.001)


def test_sealed_messages_are_changed_in_a_run():
    text = SITES + "faults: [{node: gw1, do: no_delete}]\n"
    actions = [Action(2.0, "rekey_child", "gw1", arguments={"connection": "site"})]
    pings = Ping("ping", "h1", "h2", 1.0, 0.1, 40)
    records = run(topology(text), pings, actions=actions, duration=8.0)
    assert len(events(records, "child_gone", node="gw1")) == 1
    assert not events(records, "child_gone", node="gw2")
    assert len(events(records, "ping_received")) == 40


def test_keepalive_is_an_action():
    text = SITES.replace("psk: secret", "psk: secret, encapsulation: forced")
    actions = [Action(2.0, "keepalive", "gw1", arguments={"connection": "site"})]
    records = run(topology(text), actions=actions, duration=5.0)
    assert [record.t for record in events(records, "keepalive_sent", node="gw1")] == [2.0]


def test_same_seed_same_trace_with_faults_that_draw():
    text = SITES + "faults: [{node: gw1, do: corrupt, nth: [1, 2]}, {node: gw2, do: duplicate}]\n"
    assert run(topology(text), seed=5) == run(topology(text), seed=5)


EXPERIMENT = """\
topology: site-to-site
duration: 5s
worlds: [sim]
faults:
  - {name: lost, node: gw1, do: drop, exchange: IKE_SA_INIT, nth: 1}
sweep:
  grid:
    - {name: which, set: faults.lost.nth, values: [1, 2]}
"""


def test_faults_of_an_experiment_are_those_of_its_runs(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text(EXPERIMENT)
    jobs = lay_out_sweep(load_experiment(path), Asked("sim", 1)).jobs
    assert [job.resolved().faults[0].nth for job in jobs] == [(1,), (2,)]


def test_wrong_fault_of_an_experiment_is_named_where_it_stands(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text(EXPERIMENT.replace("node: gw1", "node: gw9"))
    with pytest.raises(ConfigError, match=r"faults.yaml:5:18: faults\[0\].node: 'gw9' is not"):
        lay_out_sweep(load_experiment(path), Asked("sim", 1))
    path.write_text(EXPERIMENT.replace("do: drop", "do: dorp"))
    with pytest.raises(ConfigError, match=r"faults.yaml:5:29: faults\[0\].do: 'dorp' is unknown"):
        load_experiment(path)
