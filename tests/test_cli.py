"""The command line: exit codes, one line on standard error, nothing started over bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ipseclab import cli

TOPOLOGY = Path(__file__).parent.parent / "topologies" / "site-to-site.yaml"
SMALL = """\
topology: site-to-site
duration: 1s
traffic:
  - {kind: ping, name: ping, source: h1, destination: h2, start: 0.2, count: 3, interval: 0.1}
sweep:
  grid:
    - {name: rtt, unit: s, scale: 0.5, set: links.wan.delay, values: [0.01, 0.02]}
plots:
  - {kind: sweep, y: handshake_time, x: rtt}
"""


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs a command line in an empty folder: exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ipseclab", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


BAD = [
    (["bogus"], "No such command"),
    (["--bogus"], "No such option"),
    (["run"], "Missing argument"),
    (["run", "quickstart", "--frobnicate"], "No such option"),
    (["run", "quickstart", "--world", "moon"], "moon"),
    (["run", "quickstart", "--seed", "x"], "valid integer"),
    (["run", "quickstart", "--seed", "-1"], "or equal to 0"),
    (["run", "quickstart", "--jobs", "0"], "or equal to 1"),
    (["run", "quickstart", "surplus"], "surplus"),
    (["run", "quickstrat"], "did you mean 'quickstart'"),
    (["run", "absent.yaml"], "no such file"),
    (["run", "small.yaml", "--costs", "absent.json"], "absent.json: cannot be read"),
    (["run", "small.yaml", "--costs", "small.yaml"], "small.yaml:1:1"),
    (["run", "small.yaml", "--out", "small.yaml"], "small.yaml"),
    (["run", "small.yaml", "--slow", "0.5"], "or equal to 1"),
    (["run", "small.yaml", "--slow", "3", "--costs", "zero"], "nothing to slow down"),
    (["run", "small.yaml", "--out", "."], "something else"),
    (["plot", "absent"], "no manifest.json"),
    (["plot"], "Missing argument"),
    (["decode", "absent.pcapng"], "absent.pcapng"),
    (["run", "elsewhere"], "(or a file, with its .yaml)"),
    (["decode", "small.yaml"], "expected"),
    (["schema", "poem"], "poem"),
    (["up", "site-to-sight"], "did you mean 'site-to-site'"),
    (["up", "quickstart"], "this is one of experiments, use: ipseclab run quickstart"),
    (["run", "border"], "this is one of topologies, use: ipseclab up border"),
    (
        ["up", "small.yaml"],
        "small.yaml:1:1: topology: this looks like an experiment, use: ipseclab run small.yaml",
    ),
    (
        ["run", str(TOPOLOGY)],
        f"nodes: this looks like a topology, use: ipseclab up {TOPOLOGY}",
    ),
    (["agree", "absent", "absent"], "no finished run"),
    (["compare", "absent", "absent"], "absent: holds no results: no manifest.json"),
    (["compare", "absent"], "Missing argument"),
    (["compare", "absent", "absent", "--threshold", "much"], "expected a number from 0 to 1"),
    (["compare", "absent", "absent", "--threshold", "-1"], "--threshold"),
    (["agree", "quickstrat"], "did you mean 'quickstart'"),
    (["calibrate", "--out"], "requires an argument"),
    (["doctor", "--world", "moon"], "moon"),
]


@pytest.mark.parametrize(("words", "expected"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_line_and_exit_2(command, tmp_path, words, expected):
    code, out, err = command(*words)
    assert code == 2
    assert out == "" or words[0] == "decode"  # which says first what keys it found
    assert err.count("\n") == 1
    assert expected in err
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_help_of_every_command_has_examples(command):
    code, out, _ = command("--help")
    assert code == 0
    names = ("run", "agree", "compare", "up", "plot", "decode", "schema", "doctor", "calibrate")
    for name in names:
        assert name in out
        code, help_text, _ = command(name, "--help")
        assert code == 0
        assert f"ipseclab {name}" in help_text.split("Examples")[1]


def test_nothing_said_is_help(command):
    code, out, _ = command()
    assert code == 0
    assert "Usage" in out


@pytest.mark.parametrize("what", ["topology", "experiment"])
def test_schema_is_json(command, what):
    code, out, _ = command("schema", what)
    assert code == 0
    assert json.loads(out)["additionalProperties"] is False


def test_a_run_ends_with_its_table_and_figures(command, tmp_path):
    code, out, err = command("run", "small.yaml", "--out", "out", "--costs", "zero")
    assert (code, err) == (0, "")
    assert "handshake" in out
    figures = [line.removeprefix("figure: ") for line in out.splitlines() if "figure:" in line]
    assert figures == [
        "out/figures/sweep-handshake_time.png",
        "out/figures/sweep-handshake_time.svg",
    ]
    assert all((tmp_path / figure).stat().st_size > 1000 for figure in figures)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["command"] == [
        "ipseclab",
        "run",
        "small.yaml",
        "--out",
        "out",
        "--costs",
        "zero",
    ]
    assert manifest["status"] == "done"
    assert {"kernel", "python", "commit", "host"} <= manifest["machine"].keys()


EXPECTING = (
    SMALL
    + """\
expect:
  - handshake_time.max < 2 * rtt + 10 ms
  - {that: ping_lost == 0, over: all}
"""
)


def test_what_is_expected_is_judged_and_told(command, tmp_path):
    words = ("run", "expecting.yaml", "--out", "out", "--costs", "zero")
    path = tmp_path / "expecting.yaml"
    path.write_text(EXPECTING)
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    assert "What was expected" in out
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["expectations"] == {"held": 3, "failed": 0, "not judged": 0}


def test_what_does_not_hold_is_exit_1_also_of_results_that_are_stored(command, tmp_path):
    words = ("run", "expecting.yaml", "--out", "out", "--costs", "zero")
    path = tmp_path / "expecting.yaml"
    path.write_text(EXPECTING)
    command(*words)
    path.write_text(EXPECTING.replace("2 * rtt + 10 ms", "1.5 * rtt + 6 ms"))
    code, out, err = command(*words)
    assert code == 1
    assert "2 of 2 runs are stored already" in out
    assert err == (
        "expectation failed: handshake_time.max < 1.5 * rtt + 6 ms: at rtt=0.02: "
        "0.04 s, expected < 0.036 s: out\n"
    )
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["expectations"] == {"held": 2, "failed": 1, "not judged": 0}
    assert manifest["status"] == "done"
    path.write_text(SMALL)
    code, _, _ = command(*words)
    assert code == 0
    assert not list((tmp_path / "out").glob("expectations*"))


def test_a_run_that_broke_its_expectation_is_named(command, tmp_path):
    text = EXPECTING.replace("handshake_time.max < 2 * rtt + 10 ms", "handshake_time < 0.03")
    (tmp_path / "expecting.yaml").write_text(text)
    code, _, err = command("run", "expecting.yaml", "--out", "out", "--costs", "zero")
    assert code == 1
    assert err.endswith("in 1 of 1 runs: out/runs/00001_rtt-0.02-r0\n")


def test_a_run_compared_with_itself_is_the_same_and_with_a_slower_one_is_exit_1(command, tmp_path):
    words = ("run", "small.yaml", "--costs", "zero", "--repetitions", "5")
    command(*words, "--out", "one")
    command(*words, "--out", "two", "--seed", "2")
    code, out, err = command("compare", "one", "two")
    assert (code, err) == (0, "")
    assert " same" in out
    names = {path.name for path in (tmp_path / "two/compare").iterdir()}
    assert names == {
        "compare.json",
        "compare.md",
        "compare.xml",
        "benchmark-smaller.json",
        "benchmark-bigger.json",
    }
    for path in (tmp_path / "two/runs").glob("*rtt-0.02*/row.json"):
        row = json.loads(path.read_text())
        row["metrics"]["handshake_time"] *= 1.2
        path.write_text(json.dumps(row))
    code, out, _ = command("compare", "one", "two", "--out", "ci")
    assert code == 1
    assert "1 slower, 0 faster" in out
    assert (tmp_path / "ci/compare.xml").is_file()
    code, _, _ = command("compare", "one", "two", "--threshold", "25%")
    assert code == 0


def test_a_stack_made_slower_is_found_to_be_slower(command, tmp_path):
    """At the round trip of 10 ms the stack's own time is a fifth of a handshake."""
    words = ("run", "small.yaml", "--repetitions", "5")
    command(*words, "--out", "base")
    code, _, _ = command(*words, "--out", "slow", "--slow", "3", "--seed", "2")
    assert code == 0
    code, out, _ = command("compare", "base", "slow")
    assert code == 1
    assert "slower  │ handshake_time" in out
    code, _, err = command(*words, "--out", "slow", "--seed", "2")
    assert code == 2
    assert "holds results with slow 3.0, not 1.0" in err


def test_so_few_runs_that_nothing_can_be_said_are_warned_of(command):
    command("run", "small.yaml", "--costs", "zero", "--out", "one")
    code, out, err = command("compare", "one", "one")
    assert code == 0
    assert "too few runs" in out
    assert err.endswith("1 at a point: run both with --repetitions 5 or more\n")


def test_what_cannot_be_compared_is_exit_2(command, tmp_path):
    words = ("run", "small.yaml", "--costs", "zero", "--out")
    command(*words, "one")
    (tmp_path / "other.yaml").write_text(SMALL.replace("duration: 1s", "duration: 2s"))
    command("run", "other.yaml", "--costs", "zero", "--out", "two")
    code, out, err = command("compare", "one", "two")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "one: holds results of experiment small, not of other" in err
    next((tmp_path / "one/runs").glob("*/row.json")).unlink()
    code, _, err = command("compare", "one", "one")
    assert (code, err.count("\n")) == (2, 1)
    assert "one: holds 1 of 2 runs (done), expected finished results" in err


def test_results_of_another_seed_are_refused_and_kept(command, tmp_path):
    command("run", "small.yaml", "--out", "out", "--costs", "zero")
    before = (tmp_path / "out/manifest.json").read_text()
    code, _, err = command("run", "small.yaml", "--out", "out", "--costs", "zero", "--seed", "9")
    assert code == 2
    assert "seed 1, not 9" in err
    assert err.count("\n") == 1
    assert (tmp_path / "out/manifest.json").read_text() == before


def test_results_of_another_program_are_refused_and_kept(command, tmp_path):
    words = ("run", "small.yaml", "--out", "out", "--costs", "zero")
    command(*words)
    path = tmp_path / "out/manifest.json"
    document = json.loads(path.read_text())
    assert len(document["sources"]) == 16
    path.write_text(json.dumps(document | {"sources": "of another commit"}))
    before = path.read_text()
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert "another program" in err
    assert "give another --out" in err
    assert err.count("\n") == 1
    assert path.read_text() == before


def test_a_run_in_which_the_lab_lost_packets_is_warned_of(command, tmp_path):
    words = ("run", "small.yaml", "--out", "out", "--costs", "zero")
    command(*words)
    path = next((tmp_path / "out/runs").glob("*/row.json"))
    row = json.loads(path.read_text())
    row["metrics"]["overruns"] = 12.0
    path.write_text(json.dumps(row))
    code, _, err = command(*words)
    assert code == 0
    assert err.count("\n") == 1
    assert f"warning: run {path.parent.name}: the lab itself lost 12 packets" in err
    (warning,) = json.loads((tmp_path / "out/manifest.json").read_text())["warnings"]
    assert warning in err


def test_without_out_each_run_gets_a_folder_of_its_own(command, tmp_path):
    for _ in range(2):
        code, _, _ = command("run", "small.yaml", "--costs", "zero")
        assert code == 0
    found = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert found == ["small-sim", "small-sim-2"]


def test_a_run_leaves_nothing_in_the_home(tmp_path):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (work / "small.yaml").write_text(SMALL)
    places = {"HOME": str(home), "TMPDIR": str(home), "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": ""}
    environment = {**os.environ, **places}
    environment.pop("MPLCONFIGDIR", None)
    words = ["run", "small.yaml", "--out", "out", "--costs", "zero"]
    subprocess.run(
        [sys.executable, "-m", "ipseclab", *words], check=True, cwd=work, env=environment
    )
    assert not list(home.iterdir())
    assert sorted(path.name for path in work.iterdir()) == ["out", "small.yaml"]
    names = {path.name for path in (work / "out").iterdir()}
    tables = {"manifest.json", "runs", "runs.csv", "runs.parquet"}
    assert names == tables | {"figures", "report.html"}


def test_plot_draws_again(command, tmp_path):
    command("run", "small.yaml", "--out", "out", "--costs", "zero")
    figure = tmp_path / "out/figures/sweep-handshake_time.svg"
    before = figure.read_bytes()
    figure.unlink()
    code, out, _ = command("plot", "out")
    assert code == 0
    assert "sweep-handshake_time.svg" in out
    assert figure.read_bytes() == before


def as_netns(one, two, later=0.0):
    """The rows of results as those of the other world, with a handshake that takes longer."""
    for path in (one / "runs").glob("*/row.json"):
        row = json.loads(path.read_text()) | {"world": "netns"}
        row["metrics"]["handshake_time"] += later
        other = two / "runs" / path.parent.name / "row.json"
        other.parent.mkdir(parents=True)
        other.write_text(json.dumps(row))


def test_agree_of_equal_results_agrees_and_of_others_does_not(command, tmp_path):
    command("run", "small.yaml", "--out", "one", "--costs", "zero")
    as_netns(tmp_path / "one", tmp_path / "same")
    code, out, _ = command("agree", "one", "same")
    assert code == 0
    assert "The worlds agree." in out
    as_netns(tmp_path / "one", tmp_path / "two", later=0.003)
    code, out, _ = command("agree", "one", "two")
    assert code == 1
    assert "do not agree" in out


def test_agree_knows_which_results_are_of_which_world(command, tmp_path):
    command("run", "small.yaml", "--out", "one", "--costs", "zero")
    as_netns(tmp_path / "one", tmp_path / "two", later=7.0)
    _, one_two, _ = command("agree", "one", "two")
    _, two_one, _ = command("agree", "two", "one")
    assert one_two == two_one
    code, _, err = command("agree", "one")
    assert code == 2
    assert "results of one world, expected two" in err
    code, out, err = command("agree", "one", "one")
    assert (code, out) == (2, "")
    assert "one: results of world sim, as one is, expected one of each" in err


def test_agree_names_the_points_that_one_world_alone_has(command, tmp_path):
    command("run", "small.yaml", "--out", "one", "--costs", "zero")
    as_netns(tmp_path / "one", tmp_path / "two")
    for path in (tmp_path / "two/runs").glob("*rtt-0.02*/row.json"):
        path.unlink()
    code, out, _ = command("agree", "one", "two")
    assert code == 0
    assert "only in sim, not compared: rtt=0.02" in out
    assert "The worlds agree, at the points that both have." in out


def test_doctor_says_what_is_there(command):
    code, out, _ = command("doctor")
    assert code == 0
    assert "python packages" in out


def test_help_is_quick_and_as_a_module():
    # No time is measured here: what makes a command slow to start is what it imports.
    script = (
        "import sys; sys.argv = ['ipseclab', '--help']\n"
        "from ipseclab.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'matplotlib', 'pandas', 'pyarrow', 'scipy', 'simpy', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_interrupted_it_says_how_to_go_on_and_does(command, tmp_path):
    words = ["run", "small.yaml", "--out", "out", "--costs", "zero", "--repetitions", "12"]
    started = subprocess.Popen(
        [sys.executable, "-m", "ipseclab", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    rows = tmp_path / "out/runs"
    while not list(rows.glob("*/row.json")) and started.poll() is None:
        os.sched_yield()
    started.send_signal(signal.SIGINT)
    _, err = started.communicate()
    assert started.returncode == 130
    assert "Traceback" not in err
    assert f"go on with: ipseclab {' '.join(words)}" in err
    stored = len(list(rows.glob("*/row.json")))
    assert 0 < stored < 24
    code, out, _ = command(*words)
    assert code == 0
    assert f"{stored} of 24 runs are stored already" in out
    assert json.loads((tmp_path / "out/manifest.json").read_text())["status"] == "done"
