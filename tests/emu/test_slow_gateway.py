"""A gateway that is told to take longer does, and its handshakes show it."""

import pytest

from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.results import ResultsFolder
from ipseclab.measure.sweep import Asked, lay_out_sweep, run_sweep

pytestmark = pytest.mark.netns
TEXT = """\
topology: site-to-site
duration: 1s
overrides: {links.wan.delay: 1ms}
"""
SLOW = 40.0


def test_a_slow_stack_takes_longer_for_a_handshake(tmp_path):
    path = tmp_path / "handshake.yaml"
    path.write_text(TEXT)
    times = {}
    for slow in (1.0, SLOW):
        folder = ResultsFolder(tmp_path / f"slow-{slow}")
        sweep = lay_out_sweep(load_experiment(path), Asked("netns", 1, slow=slow))
        (row,), failures = run_sweep(sweep, folder)
        assert not failures
        assert folder.manifest().slow == slow
        times[slow] = row.metrics["handshake_time"]
    # Forty times a few milliseconds is far beyond what a busy machine adds.
    assert times[SLOW] > 3 * times[1.0]
