"""Experiments of the gallery at their smallest: what they expect holds, and fails when the thing
that they show is broken."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ipseclab.cli import app

ROOT = Path(__file__).parents[2]
BROKEN = [
    ("remote-access", "seed: 1", "seed: 1\noverrides: {links.core.block: udp/4500}"),
    ("remote-access-moving", "duration: 9s", "duration: 9s\noverrides: {links.up.block: udp/4500}"),
    ("remote-access-revoked", "connections.alice.reauthentication: 8s", ""),
    ("host-to-host", "links.wan.backward.block: udp/500", "links.wan.backward.block: udp/4500"),
    (
        "server-to-server",
        "connections.health.local_ts: 192.0.2.1/32",
        "connections.health.mode: none",
    ),
    ("site-to-site", "psk: a secret of gw<i> and gw<j>}", "psk: a, responder_psk: b}"),
    (
        "site-to-site",
        "repeat.branches.pairs: []",
        "repeat.branches.connections.0.remote_ts: 10.0.0.0/24",
    ),
    ("ports-and-protocols", "links.wan.block: esp}", "links.wan.block: ah}"),
    ("ports-and-protocols", "connections.site.encapsulation: auto-tcp", "links.wan.delay: 1s"),
    ("ah-and-nat", ", ah_passthrough: true}", "}"),
    ("ah-and-nat", "connections.first.encapsulation: never", "connections.first.mode: tunnel"),
    ("nat-zoo", "connections.site.keepalive: 1s", "connections.site.keepalive: 10s"),
    ("nat-zoo", "{at: 7s, do: nat_rebind, node: home}", "{at: 7s, do: keepalive, node: gw1}"),
]


def run(experiment, out):
    words = ["run", str(experiment), "--quick", "--jobs", "1", "--out", str(out)]
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _, _ in BROKEN))
def test_what_it_expects_holds(name, tmp_path):
    done = run(ROOT / f"experiments/{name}.yaml", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "held" in done.output


@pytest.mark.parametrize(("name", "said", "instead"), BROKEN)
def test_it_fails_when_the_thing_is_broken(name, said, instead, tmp_path):
    text = (ROOT / f"experiments/{name}.yaml").read_text()
    assert said in text
    (path := tmp_path / f"{name}.yaml").write_text(text.replace(said, instead))
    done = run(path, tmp_path / "out")
    assert done.exit_code == 1, done.output
    assert "What was expected" in done.output
