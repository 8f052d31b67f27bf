"""Shared secrets: a text of any length, or hexadecimal (RFC 7296 section 2.15)."""

from pathlib import Path

import pytest
from pair import Pair, connection, gateway_config

from ipseclab.lab.gateways import gateway_config as lab_config
from ipseclab.lab.library import TOPOLOGIES
from ipseclab.lab.secret_text import check_secret, secret_octets
from ipseclab.lab.topology import parse_topology

LONG = "The quick brown fox jumps over the lazy dog, and over all the others as well."
SITE = (Path(TOPOLOGIES) / "site-to-site.yaml").read_text()


@pytest.mark.rfc("8784", "5.2", "SHOULD", "hex")
@pytest.mark.rfc("7296", "2.15", "MUST", "long-ascii-secret")
@pytest.mark.rfc("7296", "2.15", "MUST NOT", "terminated-secret")
@pytest.mark.rfc("7296", "2.15", "MUST", "hex-secret")
@pytest.mark.parametrize(
    ("text", "octets"),
    [
        (LONG, LONG.encode()),
        ("0x00ff2a", b"\0\xff*"),
        ("x", b"x"),
        ("schlüssel", b"schl\xc3\xbcssel"),
    ],
)
def test_secrets_as_text_and_in_hexadecimal(text, octets):
    assert len(LONG) > 64
    assert secret_octets(text) == octets
    before = "psk: a shared secret of the lab"
    assert before in SITE
    topology = parse_topology(SITE.replace(before, f"psk: '{text}'"))
    for node in ("gw1", "gw2"):
        (made,) = lab_config(topology, node).ike.connections
        assert made.psk == octets
    sides = [gateway_config(connection(side, psk=octets)) for side in (0, 1)]
    pair = Pair(tuple(sides))
    pair.connect()
    pair.agreed()


@pytest.mark.parametrize("text", ["0x", "0xabc", "0xax"])
def test_hexadecimal_that_is_none(text):
    with pytest.raises(ValueError, match="begins with 0x, expected pairs") as refused:
        check_secret(text)
    assert "ab" not in str(refused.value)
