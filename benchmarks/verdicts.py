"""How often a comparison is wrong: unchanged runs, which must stay green, and slowed ones, which
must go red.

    python benchmarks/verdicts.py                    50 unchanged repetitions, 5 slowed ones
    python benchmarks/verdicts.py --unchanged 3 --slowed 1 --out results/verdicts.json

One baseline of the experiment `regression` is held against repetitions of the same program with
seeds of their own, as `ipseclab compare` does it; then against repetitions whose stack takes three
times as long (`run --slow 3`). Exit code 1 when an unchanged one is red or a slowed one green.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from ipseclab.measure.compare.comparison import ALPHA, THRESHOLD, Change, compare, finished
from ipseclab.measure.cost_choice import cost_text, costs_name
from ipseclab.measure.expect.judge import Verdict
from ipseclab.measure.expect.store import read_judgements
from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.results import ResultsFolder, machine_facts, write_atomic
from ipseclab.measure.sweep import Asked, lay_out_sweep, run_sweep

EXPERIMENT = "regression"
BASELINE_SEED = 1


def results(folder, seed, *, slow=1.0, jobs=2, repetitions=None):
    """The experiment's runs with that seed, finished, and whether its expectations held."""
    costs = cost_text("default")
    asked = Asked(
        "sim",
        seed,
        costs=costs,
        costs_name=costs_name("default", costs),
        repetitions=repetitions,
        slow=slow,
    )
    sweep = lay_out_sweep(load_experiment(EXPERIMENT), asked)
    _, failures = run_sweep(sweep, ResultsFolder(folder), workers=jobs)
    assert not failures, failures
    held = all(one.verdict is not Verdict.FAILED for one in read_judgements(folder))
    return finished(ResultsFolder(folder)), held


def trial(base, seed, *, slow, jobs, repetitions):
    """One repetition held against the baseline."""
    with tempfile.TemporaryDirectory() as folder:
        run, held = results(Path(folder), seed, slow=slow, jobs=jobs, repetitions=repetitions)
        found = compare(base, run)
    slower = [one for one in found if one.verdict is Change.SLOWER]
    return {
        "seed": seed,
        "red": bool(slower) or not held,
        "expectations_held": held,
        "slower": [
            {
                "metric": one.metric,
                "point": dict(one.point),
                "change": one.change,
                "q": one.q,
            }
            for one in slower
        ],
        "least_q": min((one.q for one in found if one.q is not None), default=None),
    }


def main():
    """See the module's own text."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--unchanged", type=int, default=50)
    parser.add_argument("--slowed", type=int, default=5)
    parser.add_argument("--slow", type=float, default=3.0)
    parser.add_argument("--repetitions", type=int, help="of each point; the experiment's own")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where the results go, as JSON")
    given = parser.parse_args()
    options = {"jobs": given.jobs, "repetitions": given.repetitions}
    kinds = {"unchanged": (given.unchanged, 1.0), "slowed": (given.slowed, given.slow)}
    trials = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        base, held = results(Path(folder), BASELINE_SEED, **options)
        assert held, "the baseline breaks its own expectations"
        seed = BASELINE_SEED
        for kind, (count, slow) in kinds.items():
            for _ in range(count):
                seed += 1
                trials[kind].append(trial(base, seed, slow=slow, **options))
            red = sum(one["red"] for one in trials[kind])
            print(f"{kind}: {red} of {count} red, {count - red} green", flush=True)
    document = {
        "experiment": EXPERIMENT,
        "runs": len(base.rows),
        "threshold": THRESHOLD,
        "alpha": ALPHA,
        "slow": given.slow,
        "sources": base.manifest.sources,
        "machine": {k: v for k, v in machine_facts().items() if k not in ("host", "commit")},
        "red": {kind: sum(one["red"] for one in found) for kind, found in trials.items()},
        "trials": trials,
    }
    if given.out is not None:
        write_atomic(given.out, json.dumps(document, indent=1) + "\n")
    wrong = document["red"]["unchanged"] + given.slowed - document["red"]["slowed"]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
