"""Results folders of small simulated runs, to be looked at."""

from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.results import ResultsFolder
from ipseclab.measure.sweep import Asked, lay_out_sweep, manifest_of
from ipseclab.measure.worker import run_job

HOSTILE = "</script><img src=x onerror=document.title='broken'>&<!--"
"""An identity as a peer might send it."""

REKEYED = f"""\
topology: site-to-site
description: "{HOSTILE}"
duration: 2s
overrides:
  links.wan.loss: 2%
  connections.site.ids: ["{HOSTILE}", gw2]
traffic:
  - {{kind: ping, name: ping, source: h1, destination: h2, start: 0.5, count: 10, interval: 0.1}}
  - {{kind: probe, name: "probe", source: h1, destination: h2, start: 0.5, duration: 1, rate: 100}}
  - {{kind: transfer, name: bulk, source: h2, destination: h1, start: 0.6, octets: 60kB}}
actions:
  - {{at: 1s, do: rekey_child, node: gw1, connection: site}}
"""
SWEPT = """\
topology: site-to-site
duration: 1s
repetitions: 2
traffic:
  - {kind: ping, name: ping, source: h1, destination: h2, start: 0.2, count: 3, interval: 0.1}
sweep:
  grid:
    - {name: rtt, unit: s, scale: 0.5, set: links.wan.delay, values: [0.01, 0.02]}
plots:
  - {kind: sweep, y: handshake_time, x: rtt}
"""


def results_of(text, path):
    """A folder with the results of an experiment, in the simulator and in this process."""
    path.mkdir(parents=True)
    file = path / "looked-at.yaml"
    file.write_text(text)
    experiment = load_experiment(file)
    sweep = lay_out_sweep(experiment, Asked("sim", 1, command=("ipseclab", "run", "looked-at")))
    folder = ResultsFolder(path / "out")
    folder.begin(manifest_of(experiment, sweep.asked, len(sweep.jobs)))
    for job in sweep.jobs:
        job.write(folder.clear_run(job.run))
        run_job(folder.run_path(job.run))
    return folder
