"""What the documentation says is what the program does."""

import re
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from ipseclab.cli import app
from ipseclab.lab.yaml_source import parse_yaml
from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.metrics import METRICS
from ipseclab.measure.sweep import Asked, lay_out_sweep

ROOT = Path(__file__).parents[1]
COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands}
HEAD = "topology: site-to-site-nat\nduration: 15s\n"


def text_of(name):
    return (ROOT / name).read_text()


def test_every_metric_is_documented_as_it_is():
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (.*) \|$", text_of("docs/results.md"), re.M)
    assert rows == [(m.name, m.unit, m.definition) for m in METRICS.values()]


DOCUMENTS = ["README.md", "docs/experiments.md", "docs/results.md", "docs/ci.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_named_is_one(name):
    named = set(re.findall(r"`?ipseclab ([a-z]+)", text_of(name)))
    assert named <= COMMANDS


def test_the_readme_names_every_command():
    assert set(re.findall(r"^\| `ipseclab ([a-z]+)", text_of("README.md"), re.M)) == COMMANDS


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name):
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)#]+)\)", text_of(name)):
        assert (folder / target).is_file(), target


def test_every_test_that_shows_the_datapath_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of("docs/datapath-conformance.md"))
    assert len(named) > 50
    for file, test in named:
        assert f"def {test}(" in text_of(file), (file, test)


def test_the_workflow_calls_what_there_is_and_nothing_of_third_parties():
    jobs = parse_yaml(text_of("docs/ci/experiments.yml")).data["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    used = {step["uses"].split("@")[0] for step in steps if "uses" in step}
    own = ("checkout", "setup-python", "cache", "upload-artifact")
    assert used <= {f"actions/{name}" for name in own}
    script = "\n".join(step.get("run", "") for step in steps)
    called = re.findall(r"ipseclab ([a-z]+)(.*)", script)
    assert {name for name, _ in called} == {"doctor", "run", "compare"}
    options = {
        command.name or command.callback.__name__: {
            option
            for parameter in get_command(app)
            .commands[command.name or command.callback.__name__]
            .params
            for option in parameter.opts
        }
        for command in app.registered_commands
    }
    for name, words in called:
        assert set(re.findall(r"--[a-z]+", words)) <= options[name]
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_the_readme_lists_experiments_that_are_there():
    listed = re.findall(r"^\| `([a-z-]+)` \|", text_of("README.md"), re.M)
    for name in listed:
        load_experiment(ROOT / "experiments" / f"{name}.yaml")
    assert "quickstart" in listed


def test_the_experiment_in_the_readme_is_whole(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", text_of("README.md"), re.S)
    (path := tmp_path / "mine.yaml").write_text(text)
    assert lay_out_sweep(load_experiment(path), Asked("sim", 1)).jobs


def snippets():
    return re.findall(r"```yaml\n(.*?)```", text_of("docs/experiments.md"), re.S)


@pytest.mark.parametrize("snippet", snippets(), ids=lambda s: s.split(":")[0])
def test_every_snippet_is_a_valid_part_of_an_experiment(snippet, tmp_path):
    path = tmp_path / "snippet.yaml"
    path.write_text(HEAD + snippet)
    assert lay_out_sweep(load_experiment(path), Asked("sim", 1)).jobs


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*.yaml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("quick", [True, False], ids=["quick", "whole"])
def test_every_experiment_can_be_laid_out(path, quick):
    experiment = load_experiment(path)
    for world in experiment.file.worlds:
        assert lay_out_sweep(experiment, Asked(world, 1, quick)).jobs
