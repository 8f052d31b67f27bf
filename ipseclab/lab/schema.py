"""What a topology file may hold: pydantic models of its keys, each looked at by itself.

`lab.topology` resolves a checked `TopologyFile` into frozen values and checks the whole. The models
also make the JSON Schema that editors complete from.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    Field,
)

from ipseclab.lab.schema_attacks import (
    Attacks,
)
from ipseclab.lab.schema_connection import (
    CertificatesFile,
    ConnectionFile,
)
from ipseclab.lab.schema_faults import (
    Faults,
)
from ipseclab.lab.schema_network import (
    LinkFile,
    NodeFile,
)
from ipseclab.lab.schema_repeat import Repeat
from ipseclab.lab.schema_types import (
    MOST_CONNECTIONS,
    MOST_LINKS,
    MOST_NODES,
    Name,
    NodeName,
    Strict,
)


class TopologyFile(Strict):
    """A lab: its nodes, links and connections."""

    name: Name | None = None
    """By default the file's stem."""
    description: str = ""
    nodes: Annotated[dict[NodeName, NodeFile], Field(min_length=1, max_length=MOST_NODES)]
    links: Annotated[list[LinkFile], Field(max_length=MOST_LINKS)] = []
    connections: Annotated[list[ConnectionFile], Field(max_length=MOST_CONNECTIONS)] = []
    faults: Faults = []
    """What goes wrong on purpose."""
    attacks: Attacks = []
    """What its attackers do."""
    certificates: CertificatesFile = CertificatesFile()
    repeat: Repeat = []
    """What is there many times, with numbers in place of `<i>` and `<j>`."""


def topology_schema() -> dict[str, Any]:
    """The JSON Schema of a topology file."""
    return TopologyFile.model_json_schema()
