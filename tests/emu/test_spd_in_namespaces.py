"""The key `spd` of a node, in namespaces: what passes there is what passes in the simulator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spd_lab

from ipseclab.lab.trace import read_trace

pytestmark = pytest.mark.netns

RUN = """
    import spd_lab
    from ipseclab.emu import network
    from ipseclab.lab.topology import parse_topology
    from ipseclab.lab.trace import Trace
    gw1, gw2, _flows = spd_lab.CASES[{case!r}]
    with (OUT / "trace.jsonl").open("w") as sink:
        lab = parse_topology(spd_lab.text(gw1, gw2))
        network.run(lab, spd_lab.PLAN, seed=1, trace=Trace(sink), out=OUT)
"""


@pytest.mark.parametrize("case", ["nothing", "all"])
def test_what_passes_is_what_the_file_says(
    sandboxed: Callable[[str], Any],
    tmp_path: Path,
    case: str,
) -> None:
    here = Path(spd_lab.__file__)
    (tmp_path / here.name).write_text(here.read_text())
    done = sandboxed(RUN.format(case=case))
    assert done.code == 0, done.log
    flows = spd_lab.CASES[case][2]
    trace = read_trace(tmp_path / "trace.jsonl")
    assert spd_lab.arrived(trace) == dict.fromkeys(flows, spd_lab.PROBES)


ICMP_RUN = """
    import spd_lab
    from ipseclab.emu import network
    from ipseclab.lab.topology import parse_topology
    from ipseclab.lab.trace import Trace
    gw1, gw2, _ends = spd_lab.ICMP_CASES[{case!r}]
    with (OUT / "trace.jsonl").open("w") as sink:
        lab = parse_topology(spd_lab.text(gw1, gw2, spd_lab.NARROW))
        network.run(lab, spd_lab.NARROW_PLAN, seed=1, trace=Trace(sink), out=OUT)
"""


@pytest.mark.parametrize("case", ["at both", "at none"])
def test_a_small_mtu_behind_a_gateway_is_no_black_hole_with_icmp_errors(
    sandboxed: Callable[[str], Any], tmp_path: Path, case: str
) -> None:
    here = Path(spd_lab.__file__)
    (tmp_path / here.name).write_text(here.read_text())
    done = sandboxed(ICMP_RUN.format(case=case))
    assert done.code == 0, done.log
    trace = read_trace(tmp_path / "trace.jsonl")
    assert spd_lab.transferred(trace) is spd_lab.ICMP_CASES[case][2]
