"""What the benchmarks share: tables out, tables back in, the line that packets take, the lab."""

import json
import socket
import struct
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def options(tmp_path):
    import table

    return table.arguments("A benchmark").parse_args(["--quick", "--out", str(tmp_path)])


SPEEDS = {"Speeds": [{"suite": "a", "packets/s": 1234.5, "runs": 3}]}
RATIOS = {"Ratios": [{"figure": "TCP", "ratio": 0.5}, {"figure": "lost", "ratio": ""}]}


def test_one_table_is_read_back_as_it_was(options):
    import report
    import table

    table.publish("esp", SPEEDS, options)
    assert report.read_tables(options.out / "esp.csv") == {"": SPEEDS["Speeds"]}


def test_two_tables_keep_their_own_columns(options):
    import report
    import table

    table.publish("esp", SPEEDS | RATIOS, options)
    assert report.read_tables(options.out / "esp.csv") == SPEEDS | RATIOS


def test_what_the_figures_were_made_on_stands_beside_them(options):
    import table

    table.publish("esp", SPEEDS, options)
    document = json.loads((options.out / "esp.json").read_text())
    assert document["benchmark"] == "esp"
    assert document["options"] == {"quick": True}
    assert {"cpus", "kernel", "python", "commit"} <= document["machine"].keys()
    assert "host" not in document["machine"]


def test_the_report_has_each_table_under_its_title(options):
    import report
    import table

    table.publish("esp", SPEEDS | RATIOS, options)
    text = "\n".join(report.report(options.out))
    assert "## esp" in text
    assert "; options: --quick." in text
    assert "### Ratios" in text
    assert "| suite | packets/s | runs |\n| --- | ---: | ---: |\n| a | 1,234 | 3 |" in text


class Lossy:
    """A sending end that loses every packet whose number `lost` picks."""

    def __init__(self, inner, lost):
        self._inner, self._lost = inner, lost

    def send(self, packet):
        if not self._lost(struct.unpack("!I", packet[:4])[0]):
            self._inner.send(packet)


@pytest.fixture
def ends():
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


def test_a_line_that_loses_nothing_says_so(ends):
    from line import Line

    flood = Line(*ends, bytes(64), 0).flood(0.05, window=4)
    assert flood.rate > 0.0
    assert flood.lost == 0.0


def test_a_line_tells_the_share_that_is_lost(ends):
    from line import Line

    near, far = ends
    line = Line(Lossy(near, lambda number: number % 4 == 3), far, bytes(64), 0)
    assert line.flood(0.2, window=8).lost == pytest.approx(0.25, abs=0.05)


def test_single_packets_that_are_lost_have_no_time(ends):
    from line import Line

    near, far = ends
    line = Line(Lossy(near, lambda number: number == 1), far, bytes(64), 0)
    assert len(line.single_times(4)) == 3


@pytest.mark.netns
@pytest.mark.strongswan
def test_two_strongswan_gateways_carry_what_two_of_ours_do():
    import gateways
    import tunnels
    from sandboxed import call_in_sandbox

    effort = {"tcp_seconds": 0.3, "udp_seconds": 0.1, "echoes": 5}
    others = [
        one for one in tunnels.SOFTWARE if one in gateways.SYSTEMS and not tunnels.missing(one)
    ]
    systems = [gateways.OURS, gateways.OURS_50, gateways.STRONGSWAN, *others, gateways.CLEAR]
    found = call_in_sandbox("gateways", {"effort": effort, "systems": systems})
    assert list(found) == systems
    for figures in found.values():
        assert figures["tcp_bits"] > 0.0
        assert figures["large_packets"] > 0.0
        assert figures["small_packets"] > 0.0
        assert 0.0 < figures["ping_median"] <= figures["ping_p99"]
        assert figures["ping_beside_tcp"] > 0.0
    # Only processes of ours use CPU for it; the kernel forwards on its own.
    assert all(
        found[system]["cpu_near"] + found[system]["cpu_far"] > 0.0 for system in systems[:-1]
    )
    assert found[gateways.CLEAR]["cpu_near"] == 0.0


FIGURES = {
    "tcp_bits": 1e9,
    "cpu_near": 1e-9,
    "cpu_far": 2e-9,
    "large_packets": 1000.0,
    "large_lost": 0.0,
    "small_packets": 5000.0,
    "small_lost": 0.0,
    "ping_median": 1e-3,
    "ping_p99": 3e-3,
    "ping_beside_tcp": 2e-3,
    "profile_near": {"kernel": 0.75, "numpy": 0.25},
    "profile_far": {},
}


def runs_of(**ours):
    import gateways

    return [
        {
            gateways.OURS: FIGURES | {name: FIGURES[name] * times for name in ours},
            gateways.STRONGSWAN: FIGURES,
        }
        for times in next(iter(ours.values()))
    ]


@pytest.mark.parametrize(
    ("field", "index", "times", "middle", "verdict"),
    [
        ("tcp_bits", 0, (4.0, 5.5, 6.0), "5.50", "met"),
        ("tcp_bits", 0, (4.0, 4.5, 6.0), "4.50", "NOT met"),
        ("ping_median", 6, (0.9, 0.8, 1.2), "0.90", "met"),
        ("ping_p99", 7, (1.0, 1.0, 1.0), "3.00", "NOT met"),
    ],
)
def test_a_ratio_stands_on_a_line_with_its_verdict(field, index, times, middle, verdict):
    import esp

    line = esp.TARGETS[index].line(runs_of(**{field: times}))
    assert f": {middle} (median of 3 runs" in line
    assert line.endswith(f": {verdict}")


def test_a_profile_has_the_mean_share_of_each_library():
    import esp
    import gateways

    runs = runs_of(tcp_bits=(1.0, 2.0))
    runs[1][gateways.OURS] = FIGURES | {"profile_near": {"kernel": 0.25}}
    rows = esp.profile_rows(runs, [gateways.OURS])
    found = {(row["gateway"], row["library"]): row["share_%"] for row in rows}
    assert found == {("sender", "kernel"): 50.0, ("sender", "numpy"): 12.5}


def test_shares_are_named_by_library():
    import profiled

    report = """
# Overhead|Shared Object
    60.00% |libpython3.11.so.1.0
    20.00%|[kernel.kallsyms]
    15.00%|_multiarray_umath.cpython-311-x86_64-linux-gnu.so
     4.70%|charon
     0.30%|_struct.cpython-311-x86_64-linux-gnu.so
"""
    assert profiled.shares_in(report) == pytest.approx(
        {"interpreter": 0.6, "kernel": 0.2, "numpy": 0.15, "charon": 0.047, "other": 0.003}
    )


def test_rows_have_each_system_with_its_ratio_to_strongswan():
    import esp
    import gateways

    rows = esp.gateway_rows(runs_of(tcp_bits=(2.0,)), [gateways.OURS, gateways.STRONGSWAN])
    found = {(row["system"], row["workload"], row["metric"]): row for row in rows}
    ours = found[gateways.OURS, "TCP", "Mbit/s"]
    assert (ours["value"], ours["ratio_to_strongswan"]) == (2000.0, 2.0)
    assert found[gateways.STRONGSWAN, "TCP", "Mbit/s"]["ratio_to_strongswan"] == 1.0
    assert found[gateways.OURS, "UDP 64", "lost %"]["ratio_to_strongswan"] == ""
    assert list(rows[0]) == ["system", "workload", "metric", "value", "ratio_to_strongswan"]


def test_a_responder_is_asked_what_each_of_many_peers_costs_it():
    import many

    responder = many.hub()
    seconds = many.set_up(responder, range(5))
    assert len(seconds) == 5
    assert all(second > 0.0 for second in seconds)
    assert len(responder.ike.child_sas) == 5


def test_a_mesh_connects_every_two_gateways_in_one_simulation():
    import many

    assert many.meshed(4)["SAs"] == 6
