"""What a topology file says once of things that are there many times (`lab.repeat`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ipseclab.lab.schema_types import MOST_NODES, Name, Strict

MOST_BLOCKS = 20
MOST_TEMPLATES = 100
"""Of one kind in a block."""

_Template = Annotated[dict[str, Any], Field(min_length=1)]
_Templates = Annotated[list[_Template], Field(max_length=MOST_TEMPLATES)]


class RepeatFile(Strict):
    """What is there `count` times: templates of nodes, links and connections, with `<i>` for the
    number of the copy in names, addresses and other texts."""

    name: Name
    """For overrides: repeat.<name>.count"""
    count: Annotated[int, Field(ge=0, le=MOST_NODES)]
    """Copies; they are numbered from 1."""
    nodes: Annotated[dict[str, _Template], Field(max_length=MOST_TEMPLATES)] = {}
    links: _Templates = []
    connections: _Templates = []
    pairs: _Templates = []
    """Connections of every two copies, `<i>` the lower and `<j>` the higher number. They stand in
    front of `connections`, which may be about wider networks."""


Repeat = Annotated[list[RepeatFile], Field(max_length=MOST_BLOCKS)]


class RepeatOnly(Strict):
    """The part of a topology file that is looked at before the rest is written out."""

    repeat: Repeat = []
