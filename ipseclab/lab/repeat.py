"""Nodes, links and connections that a topology file says once and means many times.

A block of `repeat` holds templates in which `<i>` stands for the number of the copy, from 1 to
`count`; in `pairs`, connections of every two copies, `<i>` and `<j>` for the lower and the higher
one. `expand` writes the copies out, so that nothing behind it knows of templates, and notes where
each came from, so that an error names the template's line and the copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from ipseclab.lab.schema_repeat import RepeatFile, RepeatOnly
from ipseclab.lab.schema_types import MOST_CONNECTIONS, MOST_LINKS, MOST_NODES
from ipseclab.lab.yaml_source import KeyPath, YamlSource, check

KEY = "repeat"
_LIMITS = {"nodes": MOST_NODES, "links": MOST_LINKS, "connections": MOST_CONNECTIONS}
_PLACEHOLDER = re.compile(r"<([a-z]+)>")

Numbers = Mapping[str, int]
"""What each placeholder stands for in one copy."""


def expand(source: YamlSource) -> YamlSource:
    """The source with its copies written out behind its own items, and no `repeat` any more.

    Raises ConfigError at the template that is wrong.
    """
    if KEY not in source.data:
        return source
    blocks = check(RepeatOnly, replace(source, data={KEY: source.data[KEY]})).repeat
    _check_blocks(blocks, source)
    copies = _Copies(source)
    for index, block in enumerate(blocks):
        where: KeyPath = (KEY, index)
        for number in range(1, block.count + 1):
            for name, node in block.nodes.items():
                copies.add_node(name, node, where, {"i": number})
            for place, link in enumerate(block.links):
                copies.add("links", link, (*where, "links", place), {"i": number})
        for low, high in combinations(range(1, block.count + 1), 2):
            for place, pair in enumerate(block.pairs):
                numbers = {"i": low, "j": high}
                copies.add("connections", pair, (*where, "pairs", place), numbers)
        for number in range(1, block.count + 1):
            for place, connection in enumerate(block.connections):
                path = (*where, "connections", place)
                copies.add("connections", connection, path, {"i": number})
    return copies.source()


def of_templates(key: str) -> bool:
    """Whether a dotted key is that of a template: such an override comes before the copies are
    written out, one of a single copy (`links.wan3.delay`) after it."""
    return key.split(".")[0] == KEY


def _check_blocks(blocks: list[RepeatFile], source: YamlSource) -> None:
    """Names once, and no more copies than a topology may hold. Raises ConfigError."""
    names = [block.name for block in blocks]
    for index, block in enumerate(blocks):
        path: KeyPath = (KEY, index)
        if names.index(block.name) != index:
            problem = f"the name {block.name!r} is that of an earlier block, expected another"
            raise source.error((*path, "name"), problem)
        count = block.count
        copies = {
            "nodes": count * len(block.nodes),
            "links": count * len(block.links),
            "connections": count * len(block.connections)
            + count * (count - 1) // 2 * len(block.pairs),
        }
        for kind, made in copies.items():
            if made > _LIMITS[kind]:
                problem = f"{count} make {made} {kind}, expected at most {_LIMITS[kind]}"
                raise source.error((*path, "count"), problem)


class _Copies:
    """A source's content with copies behind its own items, and where each copy came from."""

    def __init__(self, source: YamlSource) -> None:
        self._source = source
        self._data = {key: value for key, value in source.data.items() if key != KEY}
        self._origins: dict[KeyPath, tuple[KeyPath, str]] = {}

    def add_node(self, name: str, node: object, block: KeyPath, numbers: Numbers) -> None:
        """A copy of a node under its template's name. Raises ConfigError."""
        path = (*block, "nodes", name)
        written = self._text(name, path, numbers)
        nodes = self._own("nodes", dict)
        if written in nodes:
            problem = f"{written!r} is a node already, expected another name (with <i> in it)"
            raise self._source.error(path, problem)
        nodes[written] = self._filled(node, path, numbers)
        self._origins["nodes", written] = path, _words(numbers)

    def add(self, kind: str, item: object, path: KeyPath, numbers: Numbers) -> None:
        """A copy of a link or connection. Raises ConfigError."""
        items = self._own(kind, list)
        self._origins[kind, len(items)] = path, _words(numbers)
        items.append(self._filled(item, path, numbers))

    def source(self) -> YamlSource:
        """The whole."""
        return replace(self._source, data=self._data, origins=self._origins)

    def _own(self, kind: str, holds: type[dict[str, Any]] | type[list[Any]]) -> Any:
        """What the file itself has of that kind, once to be added to."""
        own = self._source.data.get(kind)
        if own is not None and not isinstance(own, holds):
            what = "keys with values" if holds is dict else "a list"
            raise self._source.error((kind,), f"not usable, expected {what}")
        if self._data.get(kind) is own:
            self._data[kind] = holds(own) if own is not None else holds()
        return self._data[kind]

    def _filled(self, value: object, path: KeyPath, numbers: Numbers) -> Any:
        if isinstance(value, str):
            return self._text(value, path, numbers)
        if isinstance(value, dict):
            return dict(self._items(value, path, numbers))
        if isinstance(value, list):
            return [self._filled(item, (*path, n), numbers) for n, item in enumerate(value)]
        return value

    def _items(
        self, value: Mapping[str, object], path: KeyPath, numbers: Numbers
    ) -> Iterator[tuple[str, Any]]:
        for key, item in value.items():
            yield key, self._filled(item, (*path, key), numbers)

    def _text(self, text: str, path: KeyPath, numbers: Numbers) -> str:
        def number(match: re.Match[str]) -> str:
            if match[1] not in numbers:
                known = " and ".join(f"<{name}>" for name in numbers)
                raise self._source.error(path, f"<{match[1]}> is unknown, expected {known}")
            return str(numbers[match[1]])

        return _PLACEHOLDER.sub(number, text)


def _words(numbers: Numbers) -> str:
    return ", ".join(f"{name} = {number}" for name, number in numbers.items())
