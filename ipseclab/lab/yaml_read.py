"""YAML text to plain values and the place of each key, within limits.

Works on the nodes that ruamel composes, one step before it would construct objects: so every key
has its place, tags make no objects, and what is too deep or too much is refused before it costs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ipseclab.errors import ConfigError, Place

LARGEST_DEPTH = 20
MOST_VALUES = 1_500_000
"""Values a file may hold, those behind an alias counted each time."""

TAG_PREFIX = "tag:yaml.org,2002:"
MERGE_TAG = f"{TAG_PREFIX}merge"

Key = str | int
KeyPath = tuple[Key, ...]
Positions = dict[KeyPath, tuple[int, int]]
"""Line and column of each key, from 1."""


def read_text(text: str, file: str) -> tuple[dict[str, Any], Positions]:
    """The mapping that `text` holds and where its keys stand. Raises ConfigError about `file`."""
    try:
        with warnings.catch_warnings():
            # An anchor that is used again means its latest place (YAML 1.2 section 6.9.2).
            warnings.simplefilter("ignore", ReusedAnchorWarning)
            _check_depth(text, file)
            top = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as problem:
        place = _marked(file, problem.problem_mark)
        raise ConfigError(f"not YAML: {one_line(problem.problem)}", place) from problem
    except YAMLError as problem:
        raise ConfigError(f"not YAML: {one_line(str(problem))}", Place(file)) from problem
    reader = _Reader(file)
    data = None if top is None else reader.plain(top, ())
    if not isinstance(data, dict):
        raise ConfigError(f"holds {kind_of(data)}, expected keys with values", Place(file, 1, 1))
    return data, reader.positions


def _check_depth(text: str, file: str) -> None:
    """Refuse what is nested too deep before anything recurses into it. Raises ConfigError."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent)
        depth -= isinstance(event, CollectionEndEvent)
        if depth > LARGEST_DEPTH:
            problem = f"nested deeper than {LARGEST_DEPTH}, expected less"
            raise ConfigError(problem, _marked(file, event.start_mark))


def _marked(file: str, mark: Any) -> Place:
    return Place(file) if mark is None else Place(file, mark.line + 1, mark.column + 1)


class _Reader:
    """Turns ruamel's nodes into plain values and notes where they stood."""

    def __init__(self, file: str) -> None:
        self.positions: Positions = {(): (1, 1)}
        self._file = file
        self._values = 0

    def plain(self, node: Node, path: KeyPath) -> Any:
        self._values += 1
        if self._values > MOST_VALUES or len(path) > LARGEST_DEPTH:
            limit = f"{MOST_VALUES} values or deeper than {LARGEST_DEPTH}"
            raise ConfigError(f"more than {limit}", Place(self._file, key=path_text(path[:3])))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self._item(item, item, (*path, n)) for n, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, path)

    def _scalar(self, node: ScalarNode, path: KeyPath) -> str | int | float | bool | None:
        """JSON writes a character beyond the first 65,536 as two escapes: they become one."""
        text = str(node.value)
        if not text.isascii():
            try:
                node.value = text.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError as problem:
                place = replace(_marked(self._file, node.start_mark), key=path_text(path))
                what = f"{text!a} holds half a character, expected whole ones"
                raise ConfigError(what, place) from problem
        return _scalar(node)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == MERGE_TAG:
                merged |= self._merged(value_node, path)
                continue
            key = self._scalar(key_node, path) if isinstance(key_node, ScalarNode) else None
            place = replace(_marked(self._file, key_node.start_mark), key=path_text(path))
            if not isinstance(key, str):
                shown_key = key_node.value if isinstance(key_node, ScalarNode) else "of a list"
                raise ConfigError(f"key {shown_key} is not a text, expected one", place)
            if key in found:
                raise ConfigError("this key stands here already, expected it once", place)
            found[key] = self._item(value_node, key_node, (*path, key))
        return {**merged, **found}

    def _merged(self, node: Node, path: KeyPath) -> dict[str, Any]:
        """What `<<` brings (YAML 1.1's merge key); keys that stand here themselves win."""
        value = self.plain(node, path)
        if not isinstance(value, dict):
            place = replace(_marked(self._file, node.start_mark), key=path_text(path))
            raise ConfigError(f"<< with {kind_of(value)}, expected keys with values", place)
        return value

    def _item(self, node: Node, stands_at: Node, path: KeyPath) -> Any:
        self.positions[path] = (stands_at.start_mark.line + 1, stands_at.start_mark.column + 1)
        return self.plain(node, path)


def _scalar(node: ScalarNode) -> str | int | float | bool | None:
    """A scalar by the tag that YAML 1.2's core schema gives it; any other tag means a text."""
    text = str(node.value)
    convert = _SCALARS.get(str(node.tag).removeprefix(TAG_PREFIX))
    try:
        return text if convert is None else convert(text)
    except ValueError:
        return text


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    return int(digits, 0 if digits.lstrip("+-")[:2] in ("0o", "0x") else 10)


def _float(text: str) -> float:
    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, Callable[[str], str | int | float | bool | None]] = {
    "null": lambda _text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _integer,
    "float": _float,
}


def path_text(path: Sequence[Key]) -> str:
    """A key path as a reader writes it, on one line: links[2].delay."""
    text = ""
    for part in path:
        name = str(part) if str(part).isprintable() else repr(part)
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else name
    return text


def kind_of(value: object) -> str:
    """What a value from a file is, in words."""
    if isinstance(value, dict):
        return "keys with values"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return "a text"
    return "nothing" if value is None else "a number"


def one_line(text: str | None) -> str:
    """A library's message without its line breaks."""
    return " ".join((text or "unreadable").split())
