"""In CI (IPSECLAB_CI=1) what this machine should be able to do must really have been tested.

A test marked `netns`, `strongswan`, `tshark` or `chromium` that would be skipped fails instead, and
a whole run in which none of a kind was executed fails at its end.

Properties are drawn anew in each run at a desk, and are the same ones in each run of CI, so that a
red run there is about the change. No example has a time limit: other work shares these machines.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

DEMANDED = ("netns", "strongswan", "tshark", "chromium")
OWED = {"": DEMANDED, "netns": ("netns", "strongswan"), "not netns": ("tshark", "chromium")}
"""What a run of these tests (by its -m) must have executed; other parts of them owe nothing."""
IN_CI = os.environ.get("IPSECLAB_CI") == "1"
settings.register_profile(
    "ipseclab",
    deadline=None,
    derandomize=IN_CI,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ipseclab")
executed = dict.fromkeys(DEMANDED, 0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    wanted = [name for name in DEMANDED if item.get_closest_marker(name) is not None]
    if IN_CI and wanted and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where it must run: {report.longrepr}"
    return report


def pytest_runtest_logreport(report):
    if report.when == "call" and report.outcome == "passed":
        for name in DEMANDED:
            executed[name] += name in report.keywords


def pytest_sessionfinish(session):
    # With pytest-xdist only the controller has every report.
    config = session.config
    whole = config.args == config.getini("testpaths") and not config.option.keyword
    if IN_CI and whole and not hasattr(config, "workerinput"):
        lacking = [name for name in OWED.get(config.option.markexpr, ()) if not executed[name]]
        if lacking:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            reporter = config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None:
                reporter.write_line(f"CI: no test executed of: {', '.join(lacking)}", red=True)
