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
    from sandboxed import call_in_sandbox

    effort = {"tcp_seconds": 0.3, "udp_seconds": 0.1, "echoes": 5}
    systems = [gateways.OURS, gateways.STRONGSWAN, gateways.CLEAR]
    found = call_in_sandbox("gateways", {"effort": effort, "systems": systems})
    assert list(found) == systems
    for figures in found.values():
        assert figures["tcp_bits"] > 0.0
        assert figures["large_packets"] > 0.0
        assert figures["small_packets"] > 0.0
        assert 0.0 < figures["ping_median"] <= figures["ping_p99"]
    # Only processes of ours use CPU for it; the kernel forwards on its own.
    assert all(found[system]["cpu_per_bit"] > 0.0 for system in systems[:2])
    assert found[gateways.CLEAR]["cpu_per_bit"] == 0.0


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
