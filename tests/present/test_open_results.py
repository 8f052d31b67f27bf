"""`ipseclab open`: Wireshark with a run's keys, or the commands; and nothing in the user's home."""

import os
import shutil
import subprocess
import sys

import pytest
from looked_at import SWEPT, results_of

from ipseclab import cli

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return results_of(SWEPT, tmp_path_factory.mktemp("opened") / "here")


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs `ipseclab open` with an empty PATH, no display and a home of its own."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ipseclab", "open", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_without_wireshark_the_commands_are_printed(command, folder, tmp_path):
    code, out, err = command(folder.path)
    assert code == 0
    assert err.count("\n") == 1
    assert err.startswith("Wireshark is not installed")
    programs = [line.partition(" -r ")[0].split()[-1] for line in out.splitlines()]
    assert programs == ["wireshark", "tshark"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["bin"]


def test_without_a_display_too(command, folder, tmp_path):
    program = tmp_path / "bin" / "wireshark"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    code, _, err = command(folder.path)
    assert code == 0
    assert err.startswith("there is no display")


def test_wireshark_is_started_with_the_profile(command, folder, tmp_path, monkeypatch):
    """A program of that name that writes down what it is given, into a pipe."""
    monkeypatch.setenv("DISPLAY", ":0")
    said = tmp_path / "said"
    os.mkfifo(said)
    program = tmp_path / "bin" / "wireshark"
    program.write_text(f'#!/bin/sh\necho "$WIRESHARK_CONFIG_DIR $XDG_CACHE_HOME $*" > {said}\n')
    program.chmod(0o755)
    last = folder.rows()[-1].run
    code, out, err = command(folder.path, "--run", last)
    assert (code, err) == (0, "")
    run = folder.run_path(last)
    words = said.read_text().split()
    assert words == [*(str(run / "wireshark"),) * 2, "-r", str(run / "capture.pcapng")]
    assert str(run / "capture.pcapng") in out


@pytest.mark.tshark
@needs_tshark
def test_the_printed_command_opens_esp(command, folder, monkeypatch):
    _, out, _ = command(folder.run_path(folder.rows()[0].run))
    monkeypatch.undo()
    fields = "-Y esp -T fields -e icmp.type"
    found = subprocess.run(
        f"{out.splitlines()[-1]} {fields}", shell=True, capture_output=True, text=True, check=True
    )
    assert {"8", "0"} <= set(found.stdout.split())


def test_the_report_is_made_where_there_is_none(command, folder):
    (folder.path / "report.html").unlink(missing_ok=True)
    code, out, err = command(folder.path, "--report")
    assert (code, out) == (0, f"{folder.path / 'report.html'}\n")
    assert err.count("\n") == 1
    assert (folder.path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("words", [[], ["--report"]], ids=["capture", "report"])
def test_what_is_no_results_folder_is_one_line(command, tmp_path, words):
    code, out, err = command(tmp_path / "absent", *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "absent" in err


def test_a_run_that_is_not_there_is_one_line(command, folder):
    code, _, err = command(folder.path, "--run", "00099_r0")
    assert code == 2
    assert "00099_r0" in err
    assert folder.rows()[0].run in err


def test_a_run_without_capture_is_one_line(command, folder, tmp_path):
    capture = folder.run_path(folder.rows()[0].run) / "capture.pcapng"
    capture.rename(tmp_path / "kept")
    try:
        code, _, err = command(folder.path)
    finally:
        (tmp_path / "kept").rename(capture)
    assert code == 2
    assert "kept no capture" in err
