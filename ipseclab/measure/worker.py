"""The process that does runs: one after the other from its standard input, or one in a sandbox.

    python -m ipseclab.measure.worker                  run folders in, a line each; JSON out
    python -m ipseclab.measure.worker PATH/run.json    that run of the emulated world, in here

A run of the emulated world gets a sandbox of its own, in which this module is started again with
the run's file. A worker ends with the process that started it, however that ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, TextIO

from ipseclab.errors import ConfigError, EnvironmentLacks, IpsecLabError
from ipseclab.lab.keys import CAPTURE_NAME, Capture
from ipseclab.lab.trace import Trace, read_trace
from ipseclab.lab.ways import link_ways
from ipseclab.measure.captured import read_load
from ipseclab.measure.job import JOB_FILE, LOG_FILE, Job
from ipseclab.measure.metrics import measure
from ipseclab.measure.results import ROW_FILE, Row, write_atomic
from ipseclab.measure.run_plan import nodes_inside
from ipseclab.measure.view import RunView

TRACE_FILE = "trace.jsonl"
FAILURE_FILE = "failure.json"
WORLD_FILE = "world.json"
EXIT_LACKS, EXIT_CONFIG, EXIT_FAILED = 3, 2, 1


def run_job(folder: Path) -> None:
    """Do the run in a folder and store its row. Raises ConfigError, EnvironmentLacks, or
    RunFailed."""
    job = Job.read(folder / JOB_FILE)
    started = monotonic()
    if job.world == "sim":
        simulate(job, folder)
    else:
        emulate(folder)
    row = measured(job, folder, monotonic() - started)
    write_atomic(folder / ROW_FILE, row.to_json())


class RunFailed(IpsecLabError):
    """A run that ended without results; the message says why, its logs say more."""


def simulate(job: Job, folder: Path) -> None:
    """A run of the simulated world, in this process."""
    from ipseclab.sim import network
    from ipseclab.sim.costs import CostTable

    costs = CostTable.from_json(job.costs) if job.costs else CostTable.zero()
    with (folder / TRACE_FILE).open("w", encoding="utf-8") as sink, Capture(folder) as capture:
        network.run(
            job.resolved(),
            job.plan,
            seed=job.seed,
            trace=Trace(sink, keep=False),
            capture=capture,
            costs=costs if job.slow == 1.0 else costs.slower(job.slow),
        )


def emulate(folder: Path) -> None:
    """A run of the emulated world, in a sandbox."""
    from ipseclab.emu.sandbox import run_in_sandbox

    path = (folder / JOB_FILE).resolve()
    code = run_in_sandbox("ipseclab.measure.worker", str(path), out=folder.resolve())
    if code == 0:
        return
    try:
        failure = json.loads((folder / FAILURE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunFailed(f"ended with {code}; {folder}/logs says more") from None
    if failure["kind"] == "EnvironmentLacks":
        raise EnvironmentLacks(failure["missing"], failure["remedy"])
    raise RunFailed(failure["message"])


def inside(path: Path) -> int:
    """The run's part inside the sandbox; the exit code."""
    from ipseclab.emu import network

    folder = path.parent
    job = Job.read(path)
    try:
        with (folder / TRACE_FILE).open("w", encoding="utf-8") as sink:
            network.run(
                job.resolved(),
                job.plan,
                seed=job.seed,
                trace=Trace(sink, keep=False),
                out=folder,
                slow=job.slow,
            )
    except EnvironmentLacks as lacks:
        _fail(folder, kind="EnvironmentLacks", missing=lacks.missing, remedy=lacks.remedy)
        return EXIT_LACKS
    except IpsecLabError as problem:
        _fail(folder, kind=type(problem).__name__, message=str(problem))
        return EXIT_CONFIG if isinstance(problem, ConfigError) else EXIT_FAILED
    return 0


def _fail(folder: Path, **failure: str) -> None:
    write_atomic(folder / FAILURE_FILE, json.dumps(failure, sort_keys=True) + "\n")


def measured(job: Job, folder: Path, wall_time: float) -> Row:
    """The row of a run whose trace and capture stand in its folder."""
    capture = folder / CAPTURE_NAME
    topology, facts = job.resolved(), world_facts(folder / WORLD_FILE)
    view = RunView.of(
        read_trace(folder / TRACE_FILE),
        flows=job.plan.flows,
        inside=nodes_inside(topology),
        load=read_load(capture) if capture.is_file() else None,
        cpu_per_packet=None if facts is None else cpu_per_packet(facts),
        overruns=None if facts is None else overruns(facts),
        ways={
            flow.name: link_ways(topology, flow.source, flow.destination) for flow in job.plan.flows
        },
        duration=job.plan.duration,
    )
    return Row(
        run=job.run,
        world=job.world,
        seed=job.seed,
        repetition=job.repetition,
        parameters=job.parameters,
        metrics=measure(view),
        wall_time=round(wall_time, 3),
    )


def world_facts(path: Path) -> Mapping[str, Any] | None:
    """What the emulated world had to say of a run; None of a simulated one."""
    try:
        facts: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return facts


def overruns(facts: Mapping[str, Any]) -> float:
    """Packets that the lab itself lost: processes and queues that could not keep up."""
    return float(
        sum(facts["overruns"].values()) + sum(done["overruns"] for done in facts["relays"].values())
    )


def cpu_per_packet(facts: Mapping[str, Any]) -> float | None:
    """Seconds of CPU for a packet in or out, from what the emulated world's gateways reported."""
    gateways = facts["gateways"].values()
    # strongSwan does not count the packets of SAs that are gone.
    ours = [gateway for gateway in gateways if gateway["counters"]]
    seconds = sum(gateway["cpu_seconds"] for gateway in ours)
    packets = sum(
        gateway["counters"][name] for gateway in ours for name in ("packets_in", "packets_out")
    )
    return seconds / packets if packets else None


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Standard output and error go to this file from now on, also where this process dies of an
    error; no file stays that nothing was written to."""
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    if path.is_file() and not path.stat().st_size:
        path.unlink()


def serve(requests: TextIO, answers: TextIO) -> None:
    """Do runs until there is no more to read: `{}` for one that is done, else what went wrong."""
    for line in requests:
        folder = Path(line.rstrip("\n"))
        answer: dict[str, str] = {}
        try:
            with logged(folder / LOG_FILE):
                run_job(folder)
        except EnvironmentLacks as lacks:
            answer = {"kind": "EnvironmentLacks", "missing": lacks.missing, "remedy": lacks.remedy}
        except IpsecLabError as problem:
            answer = {"kind": type(problem).__name__, "message": str(problem)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _orphaned() -> bool:
    """True when nobody holds the other end of standard input any more."""
    poller = select.poll()
    poller.register(sys.stdin, select.POLLIN)
    return any(event & select.POLLHUP for _, event in poller.poll(0))


def main() -> int:
    """See the module's own text."""
    if len(sys.argv) == 2:
        return inside(Path(sys.argv[1]))
    if sys.platform == "linux":
        from ipseclab.emu.mnexec import die_with_parent

        die_with_parent(signal.SIGKILL)
        if _orphaned():  # it died before the kernel was told
            return EXIT_FAILED
    # What a run prints must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    serve(sys.stdin, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
