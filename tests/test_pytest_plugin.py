"""`pytest experiments/`: which files become tests, what a failure says, where results go."""

import subprocess
import sys

import pytest

PLUGIN = "ipseclab.pytest_plugin"
EXPERIMENT = """\
topology: site-to-site
duration: 0.3s
sweep:
  grid:
    - {name: rtt, unit: s, scale: 0.5, set: links.wan.delay, values: [0.01, 0.02], quick: [0.02]}
expect:
"""
MIXED = EXPERIMENT + "  - handshake_time < 0.03\n  - {that: handshake_time.count == 2, over: all}\n"
HOLDING = EXPERIMENT + "  - handshake_time.share == 1\n"
OTHERS = {
    "topology.yaml": "nodes:\n  a: {kind: host}\nlinks: []\n",
    "workflow.yml": "on: push\njobs: {}\n",
    "nested.yaml": "spec:\n  topology: x\n  duration: 3\n",
    "broken.yaml": "topology: [\n",
    "test_own.py": "def test_own():\n    pass\n",
}


@pytest.fixture
def inner(tmp_path):
    """Runs pytest in a folder with these files: exit code and output."""

    def run(*words, files, python=()):
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        for name, text in files.items():
            (work / name).write_text(text)
        (work / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
        plain = ["-p", "no:cacheprovider", "-p", PLUGIN, f"--basetemp={tmp_path / 'base'}"]
        command = [sys.executable, *python, "-m", "pytest", *plain, *words, str(work)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=work)
        return done.returncode, done.stdout + done.stderr

    return run


def test_points_are_tests_and_what_does_not_hold_is_said_in_a_line(inner, tmp_path):
    netns_only = HOLDING.replace("duration", "worlds: [netns]\nduration")
    files = {**OTHERS, "mixed.yaml": MIXED, "holding.yml": HOLDING, "other.yaml": netns_only}
    files["bad.yaml"] = MIXED.replace("_time <", "_tim <")
    code, out = inner("-v", "--continue-on-collection-errors", files=files)
    assert code == 1
    for line in (
        "mixed.yaml::rtt=0.01 PASSED",
        "mixed.yaml::rtt=0.02 FAILED",
        "mixed.yaml::over all points PASSED",
        "holding.yml::rtt=0.01 PASSED",
        "holding.yml::rtt=0.02 PASSED",
        "other.yaml::rtt=0.01 SKIPPED (not made for world sim)",
        "test_own.py::test_own PASSED",
    ):
        assert line in out
    folder = tmp_path / "base/ipseclab/mixed-sim/00001_rtt-0.02-r0"
    assert f"in 1 of 1 runs: {folder}/runs/00001_rtt-0.02-r0\n" in out
    assert (folder / "runs/00001_rtt-0.02-r0/capture.pcapng").is_file()
    assert "1 failed, 5 passed, 2 skipped, 1 error" in out
    assert "bad.yaml:7:5: expect[0].that: 'handshake_tim' is no metric and no parameter" in out
    assert "Traceback" not in out
    assert "pytest_plugin.py" not in out
    assert not any(name in out for name in ("topology.yaml", "workflow", "nested", "broken"))


def test_quick_results_of_ones_own_and_several_workers(inner, tmp_path):
    words = ("-n", "2", "--ipseclab-quick", f"--ipseclab-out={tmp_path / 'out'}")
    files = {"mixed.yaml": MIXED.replace("< 0.03", "< 0.09").replace("count == 2", "count == 1")}
    code, out = inner(*words, files=files)
    assert (code, "2 passed" in out) == (0, True)
    assert (tmp_path / "out/mixed-sim/00000_rtt-0.02-r0/manifest.json").is_file()


def test_where_there_is_no_experiment_nothing_of_ipseclab_is_imported(inner):
    probe = (
        "import sys\n"
        "def test_own():\n"
        "    ours = {name for name in sys.modules if name.startswith('ipseclab')}\n"
        f"    assert ours == {{'ipseclab', '{PLUGIN}'}}\n"
        "    assert not {'scipy', 'numpy', 'pydantic', 'ruamel.yaml'} & set(sys.modules)\n"
    )
    # hypothesis has a plugin of its own, which imports numpy.
    code, out = inner("-p", "no:hypothesispytest", files={**OTHERS, "test_own.py": probe})
    assert (code, "1 passed" in out) == (0, True), out
