"""Bad experiment files: one line with file, line, column, key and what was expected."""

import pytest

from ipseclab.errors import ConfigError
from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.sweep import Asked, lay_out_sweep

GOOD = """\
topology: site-to-site
duration: 5s
overrides:
  links.wan.delay: 10ms
traffic:
  - {kind: ping, name: ping, source: h1, destination: h2}
  - {kind: probe, name: probe, source: h1, destination: h2, rate: 100}
actions:
  - {name: rekey, at: 2s, do: rekey_child, node: gw1, connection: site}
sweep:
  grid:
    - {name: loss, set: links.wan.loss, values: [0.0, 0.1]}
    - {name: size, set: traffic.probe.size, values: [64, 128]}
metrics: [handshake_time]
plots:
  - {kind: sweep, y: rekey_time, x: loss, series: size}
"""

# (what is wrong, the text replaced, the text put there, line, what the error names)
H1_TO_H2 = "source: h1, destination: h2}"
PLOT = "kind: sweep, y: rekey_time, x: loss, series: size"
KINDS = [
    ("matrix without cells", PLOT, "kind: matrix, x: loss, series: size", 16, "without cells"),
    (
        "matrix of no metric",
        PLOT,
        "kind: matrix, x: loss, series: size, cells: [rekey_tim]",
        16,
        "did you mean 'rekey_time'",
    ),
    (
        "attack at a gateway",
        "actions:",
        "attacks:\n  - {node: gw1, do: read}\nactions:",
        9,
        "attacks[0].node: 'gw1' is a gateway",
    ),
    ("not YAML", "duration: 5s", "duration: [5s", 3, "not YAML"),
    ("not a mapping", GOOD, "- just\n- a list\n", 1, "a list"),
    ("unknown key", "duration: 5s", "duration: 5s\ndelya: 3", 3, "unknown key"),
    ("no topology", "topology: site-to-site\n", "", 1, "topology: missing"),
    ("no duration", "duration: 5s\n", "", 1, "duration: missing"),
    ("unknown topology", "site-to-site", "site-to-sight", 1, "did you mean"),
    ("duration no time", "duration: 5s", "duration: 5 parsecs", 2, "seconds"),
    ("duration zero", "duration: 5s", "duration: 0", 2, "above 0"),
    ("duration over a day", "duration: 5s", "duration: 90000", 2, "up to 86400"),
    ("seed negative", "duration: 5s", "duration: 5s\nseed: -1", 3, "from 0"),
    ("seed no number", "duration: 5s", "duration: 5s\nseed: one", 3, "whole number"),
    ("repetitions zero", "duration: 5s", "duration: 5s\nrepetitions: 0", 3, "from 1"),
    ("unknown world", "duration: 5s", "duration: 5s\nworlds: [simm]", 3, "did you mean 'sim'"),
    ("no worlds", "duration: 5s", "duration: 5s\nworlds: []", 3, "at least 1"),
    ("override of no link", "links.wan.delay", "links.wann.delay", 4, "did you mean 'wan'"),
    ("override of no key", "links.wan.delay", "links.wan.delya", 4, "did you mean 'delay'"),
    ("override out of range", "delay: 10ms", "corrupt: 110%", 4, "1%"),
    ("override of no section", "links.wan.delay", "lines.wan.delay", 4, "unknown key"),
    ("unknown kind of flow", "kind: ping", "kind: pong", 6, "did you mean 'ping'"),
    ("flow without kind", "kind: ping, ", "", 6, "kind: missing"),
    ("flow without source", H1_TO_H2, "destination: h2}", 6, "source"),
    ("flow from no node", H1_TO_H2, "source: h9, destination: h2}", 6, "h9"),
    ("flow from a gateway", H1_TO_H2, "source: gw1, destination: h2}", 6, "gateway"),
    ("flow to itself", H1_TO_H2, "source: h1, destination: h1}", 6, "another host"),
    ("unknown key of a flow", "rate: 100", "rat: 100", 7, "did you mean 'rate'"),
    ("rate zero", "rate: 100", "rate: 0", 7, "above 0"),
    ("two flows of a name", "name: probe", "name: ping", 7, "another name"),
    ("flow after the end", "rate: 100}", "rate: 100, start: 9s}", 7, "less than 5 s"),
    ("probe without a packet", "rate: 100}", "rate: 0.1}", 7, "longer time"),
    (
        "transfer without end",
        "- {kind: ping, name: ping, source: h1, destination: h2}",
        "- {kind: transfer, name: t, source: h1, destination: h2}",
        6,
        "duration or octets",
    ),
    ("unknown action", "do: rekey_child", "do: rekey_chidl", 9, "did you mean 'rekey_child'"),
    ("action without node", ", node: gw1", "", 9, "expected node"),
    ("action of a router", "node: gw1", "node: r1", 9, "cannot do rekey_child"),
    ("action of no node", "node: gw1", "node: gw9", 9, "no such node"),
    ("action on no connection", "connection: site", "connection: sight", 9, "did you mean 'site'"),
    ("action after the end", "at: 2s", "at: 6s", 9, "at most 5 s"),
    ("rebinding without a NAT", "do: rekey_child", "do: nat_rebind", 9, "expected none"),
    (
        "address change without link",
        "do: rekey_child, node: gw1, connection: site",
        "do: address_change, node: gw1",
        9,
        "expected link",
    ),
    (
        "address change of a protected link",
        "do: rekey_child, node: gw1, connection: site",
        "do: address_change, node: gw1, link: lan1",
        9,
        "expected one of wan",
    ),
    (
        "address change to no address",
        "do: rekey_child, node: gw1, connection: site",
        "do: address_change, node: gw1, link: wan, address: 192.0.2",
        9,
        "no IP address",
    ),
    (
        "address change out of the network",
        "do: rekey_child, node: gw1, connection: site",
        "do: address_change, node: gw1, link: wan, address: 10.0.0.1",
        9,
        "another address of",
    ),
    (
        "address change to the neighbour's",
        "do: rekey_child, node: gw1, connection: site",
        "do: address_change, node: gw1, link: wan, address: 192.0.2.254",
        9,
        "another address of",
    ),
    (
        "link_set without link",
        "do: rekey_child, node: gw1, connection: site",
        "do: link_set, set: {loss: 1}",
        9,
        "expected link",
    ),
    (
        "link_set of no link",
        "do: rekey_child, node: gw1, connection: site",
        "do: link_set, link: wam, set: {loss: 1}",
        9,
        "did you mean 'wan'",
    ),
    (
        "link_set of no impairment",
        "do: rekey_child, node: gw1, connection: site",
        "do: link_set, link: wan, set: {los: 1}",
        9,
        "did you mean 'loss'",
    ),
    ("times without every", "at: 2s", "at: 2s, times: 3", 9, "expected every"),
    ("axis without values", "values: [0.0, 0.1]", "values: []", 12, "at least 1"),
    ("axis that sets nothing", "set: links.wan.loss, ", "", 12, "sets nothing"),
    ("axis with a bad value", "values: [0.0, 0.1]", "values: [0.0, 1.1]", 12, "loss"),
    ("axis of no key", "set: links.wan.loss", "set: links.wan.lost", 12, "did you mean 'loss'"),
    ("axis of no flow", "set: traffic.probe.size", "set: traffic.prob.size", 13, "did you mean"),
    ("axis with a bad payload", "values: [64, 128]", "values: [64, 1]", 13, "from 16"),
    ("axis named twice", "name: size", "name: loss", 13, "another name"),
    ("axis named as a metric", "name: size", "name: goodput", 13, "a column of its own"),
    ("scaled text", "values: [0.0, 0.1]", "scale: 2, values: [1%]", 12, "cannot be scaled"),
    (
        "two kinds of sweep",
        "sweep:\n",
        "sweep:\n  points: [{parameters: {a: 1}}]\n",
        10,
        "grid or points",
    ),
    ("unknown metric", "[handshake_time]", "[handshake_tim]", 14, "did you mean 'handshake_time'"),
    *(
        (f"expectation: {words}", "plots:", f"expect:\n  - {item}\nplots:", 16, expected)
        for words, item, expected in (
            ("no comparison", "handshake_time.p95", "expected a comparison"),
            ("no metric", "1 < 2", "names no metric"),
            ("a parameter alone", "loss < 0.2", "names no metric"),
            ("unknown metric", "handshake_tim.p95 < 1", "did you mean 'handshake_time'"),
            ("unknown drop", "drops.replyed == 0", "did you mean 'drops.replayed'"),
            ("unknown statistic", "goodput.medain > 1", "did you mean 'median'"),
            ("percentile over 99", "goodput.p100 > 1", "is no statistic"),
            ("unknown link", "rtt_min > links.wann.delay", "did you mean 'wan'"),
            ("unknown fact", "rtt_min > links.wan.dely", "did you mean 'delay'"),
            ("unknown flow", "probe_lost < traffic.prob.count", "did you mean 'probe'"),
            ("unknown unit", "handshake_time < 20 mss", "'mss' is no unit, did you mean 'ms'"),
            ("other units", "goodput > 20 ms", "between bit/s and s"),
            ("units that do not add", "goodput > ike_octets + 1 s", "between octets and s"),
            ("half", "rekeys ==", "its end, expected a number"),
            ("two texts", "rekeys == 1 2", "expected an operator or the end"),
            ("a bracket", "(rekeys == 1", "its end, expected )"),
            ("a character", "rekeys == 1 & rekeys > 0", "'&' has no meaning here"),
            ("nested", "'" + "(" * 25 + "1" + ")" * 25 + " < rekeys'", "nested deeper than 20"),
            ("long", "'rekeys == 1" + " + 1" * 200 + "'", "expected at most 300"),
            ("condition in a sum", "(rekeys < 1) + 1 < 2", "a condition where a value"),
            ("unknown where", "{that: rekeys == 1, where: {lost: 0.0}}", "did you mean 'loss'"),
            ("where of no point", "{that: rekeys == 1, where: {loss: 0.3}}", "no point has loss"),
            ("unknown world", "{that: rekeys == 1, where: {world: simm}}", "did you mean 'sim'"),
            ("unknown over", "{that: rekeys == 1, over: al}", "did you mean 'all'"),
            ("unknown key", "{that: rekeys == 1, wher: {}}", "did you mean 'where'"),
            ("nothing", "{over: all}", "that: missing"),
            (
                "one of several values",
                "{that: probe_lost.sum < loss, over: all}",
                "expected over: point",
            ),
        )
    ),
    ("unknown figure", "kind: sweep", "kind: pie", 16, "'pie' is unknown"),
    ("figure of no metric", "y: rekey_time", "y: rekey_tme", 16, "did you mean 'rekey_time'"),
    ("figure of no parameter", "x: loss", "x: lost", 16, "did you mean 'loss'"),
    ("series of no parameter", "series: size", "series: sise", 16, "did you mean 'size'"),
    ("figure file elsewhere", "kind: sweep", "kind: sweep, stem: ../../x", 16, "matches"),
]  # fmt: skip


def problem_of(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        lay_out_sweep(load_experiment(path), Asked("sim", 1))
    return path, str(caught.value)


@pytest.mark.parametrize("kind", KINDS, ids=[kind[0] for kind in KINDS])
def test_each_kind_names_place_and_expectation(tmp_path, kind):
    _, old, new, line, expected = kind
    assert old in GOOD
    path, message = problem_of(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in message
    assert message.startswith(f"{path}:{line}:")
    assert expected in message


def test_the_good_one_is_laid_out(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    sweep = lay_out_sweep(load_experiment(path), Asked("sim", 1))
    assert [dict(job.parameters) for job in sweep.jobs] == [
        {"loss": 0.0, "size": 64},
        {"loss": 0.0, "size": 128},
        {"loss": 0.1, "size": 64},
        {"loss": 0.1, "size": 128},
    ]


def test_points_with_other_parameters_than_the_first(tmp_path):
    head, _ = GOOD.split("sweep:")
    text = head + "sweep:\n  points:\n    - parameters: {a: 1}\n    - parameters: {b: 1}\n"
    path, message = problem_of(tmp_path, text)
    assert message.startswith(f"{path}:13:")
    assert "expected a" in message


REBIND = """\
topology: site-to-site-nat
duration: 5s
actions:
  - {at: 2s, do: nat_rebind, node: nat1, address: 192.0.2.8}
"""


def test_rebinding_to_an_address_that_the_nat_does_not_have(tmp_path):
    path, message = problem_of(tmp_path, REBIND)
    assert message.startswith(f"{path}:4:")
    assert "192.0.2.7" in message


def test_a_strongswan_peer_is_not_simulated(tmp_path):
    path, message = problem_of(tmp_path, "topology: strongswan-peer\nduration: 5s\n")
    assert message.startswith(f"{path}:1:")
    assert "--world netns" in message


def test_more_runs_than_can_end(tmp_path):
    text = GOOD.replace("duration: 5s", "duration: 5s\nrepetitions: 100000").replace(
        "[64, 128]", str(list(range(64, 264)))
    )
    _, message = problem_of(tmp_path, text)
    assert "40000000 runs, expected at most" in message


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_experiment(tmp_path / "absent.yaml")


def test_a_name_that_is_none():
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load_experiment("quickstrat")
