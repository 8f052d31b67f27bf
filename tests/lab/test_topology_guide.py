"""docs/topology.md names every key of a topology file, and no default that is another."""

import re
from pathlib import Path

import pytest

from ipseclab.lab import schema, schema_connection, schema_network
from ipseclab.lab.library import TOPOLOGIES, names
from ipseclab.lab.nat import NatDrop
from ipseclab.lab.units import Quantity, parse_quantity

GUIDE = (Path(__file__).parents[2] / "docs" / "topology.md").read_text()
MODELS = [
    schema.TopologyFile,
    schema_network.HostFile,
    schema_network.GatewayFile,
    schema_network.RouterFile,
    schema_network.NatFile,
    schema_network.LinkFile,
    schema_network.LossFile,
    schema_connection.ConnectionFile,
    schema_connection.LifetimesFile,
    schema_connection.LifetimeFile,
    schema_connection.RetransmissionFile,
    schema_connection.CertificatesFile,
    schema_connection.EapFile,
    schema_connection.PpkFile,
    schema_connection.AuthorityFile,
    schema_connection.CertificateFile,
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_is_in_the_guide(model):
    words = set(re.findall(r"[a-z_]+", GUIDE))
    assert [key for key in model.model_fields if key not in words] == []


@pytest.mark.parametrize("name", names(TOPOLOGIES))
def test_every_topology_is_in_the_guide(name):
    assert f"`{name}`" in GUIDE


def test_every_reason_of_a_nat_is_in_the_guide():
    assert [drop.value for drop in NatDrop if drop.value not in GUIDE] == []


@pytest.mark.parametrize(
    ("model", "key"),
    [(schema_network.NatFile, "udp_timeout"), (schema_network.NatFile, "icmp_timeout"),
     (schema.ConnectionFile, "keepalive")],
)  # fmt: skip
def test_the_guides_times_are_the_defaults(model, key):
    (stated,) = re.findall(rf"^\| `{key}` \| `([^`]+)` \|", GUIDE, re.MULTILINE)
    assert parse_quantity(stated, Quantity.TIME) == model.model_fields[key].default
