"""Random schedules find a core that was broken on purpose, by a few of the mutants that
`benchmarks/mutants.py` has; it tries them all, with more seeds."""

import json
import subprocess
import sys
from pathlib import Path

MUTATION = Path(__file__).parents[2] / "benchmarks" / "mutation.py"
SEEDS = 150
QUICK = (
    *("ike-nonces", "wrong-spi", "ike-rekey-in-child", "no-repeat", "ids-go-on", "window"),
    *("redundant-stays", "no-inheritance", "lost-tasks", "impatience"),
)


def test_mutants_are_found():
    command = [sys.executable, str(MUTATION), str(SEEDS), *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["invariant"] for line in done.stdout.splitlines()]
    assert [name for name, how in zip(QUICK, found, strict=True) if how == "none"] == []
