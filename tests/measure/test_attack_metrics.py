"""What is measured of attacks, from the trace alone."""

import pytest

from ipseclab.lab.trace import Trace
from ipseclab.measure.attack_metrics import ATTACK_METRICS
from ipseclab.measure.drops import DROPS, drops
from ipseclab.measure.experiment import PlotSpec
from ipseclab.measure.metrics import measure
from ipseclab.measure.results import Row
from ipseclab.measure.view import RunView
from ipseclab.present.matrix import matrix_cells

NAMES = [metric.name for metric in ATTACK_METRICS]


def values(*records):
    trace = Trace()
    for at, (node, event, fields) in enumerate(records):
        trace.record(at / 10, node, event, **fields)
    found = measure(RunView.of(trace.records))
    return {name: found[name] for name in NAMES if found[name] is not None}


def attack(do, **fields):
    return "mal", "attack", {"attack": do, "do": do, "traffic": "plain", "octets": 100, **fields}


def probe(event, sequence, **fields):
    return "h2", f"probe_{event}", {"flow": "p", "sequence": sequence, "octets": 64, **fields}


def test_without_an_attack_there_is_no_value():
    assert values(probe("sent", 1), probe("received", 1), probe("received", 1)) == {}


def test_what_hosts_were_given_for_good_by_kind():
    assert values(
        attack("alter"),
        attack("replay"),
        probe("sent", 1),
        probe("received", 1),
        probe("received", 1),
        probe("received", 1),
        probe("received", 1, source="10.9.9.9"),
        ("h2", "probe_damaged", {"octets": 64}),
        ("h2", "probe_forged", {"sequence": 0, "octets": 64, "source": "10.1.0.2"}),
        ("h2", "probe_forged", {"sequence": 1, "octets": 64, "source": "10.1.0.2"}),
    ) == {
        "attacks": 2,
        "accepted": 6,
        "accepted_altered": 1,
        "accepted_replayed": 2,
        "accepted_forged": 2,
        "accepted_spoofed": 1,
    }


def test_reading_is_counted_in_octets_and_is_no_change():
    found = values(attack("read", clear=200), attack("read", clear=0), attack("drop"))
    assert (found["attacks"], found["clear_octets"]) == (1, 200)
    assert values(attack("read", clear=0))["clear_octets"] == 0
    assert "clear_octets" not in values(attack("drop"))
    assert values(attack("downgrade")) == {"attacks": 1}


def test_a_copy_is_delivered_but_once():
    found = RunView.of(_records(probe("sent", 1), probe("received", 1), probe("received", 1)))
    assert measure(found)["probe_delivered"] == 1


def _records(*records):
    trace = Trace()
    for at, (node, event, fields) in enumerate(records):
        trace.record(at / 10, node, event, **fields)
    return trace.records


def test_drops_of_an_attacker_have_names_of_their_own():
    lost = ("mal", "attacker_dropped", {"reason": "held_full", "octets": 9})
    counted = drops(RunView.of(_records(lost, lost)))
    assert counted == {"drops.attacker_held_full": 2.0}
    assert "attacker_held_full" in DROPS


@pytest.mark.parametrize("reverse", [False, True])
def test_a_cell_of_a_matrix_is_the_first_metric_with_a_value(reverse):
    rows = [
        _row("read", "none", clear_octets=80.0, accepted=0.0),
        _row("alter", "none", clear_octets=None, accepted=5.0),
        _row("alter", "none", clear_octets=None, accepted=7.0),
        _row("alter", "ESP", clear_octets=None, accepted=None),
    ]
    spec = PlotSpec("matrix", "m", x="by", series=("do",), cells=("clear_octets", "accepted"))
    cells = matrix_cells(rows[::-1] if reverse else rows, spec)
    assert cells == {("read", "none"): ("clear_octets", 80.0), ("alter", "none"): ("accepted", 6.0)}


def _row(do, by, **metrics):
    return Row("r", "sim", 1, 0, {"do": do, "by": by}, metrics, 0.0)
