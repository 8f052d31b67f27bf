"""YAML files with the place of every key, overrides, and pydantic models checked against them.

Every error is a `ConfigError` of one line: file, line, column, key path, the problem and what was
expected. Topology and experiment files both go through here. Reading is bounded: size, depth and
the number of values (aliases count each time) have limits.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ipseclab.errors import ConfigError, Place
from ipseclab.lab.yaml_read import Key, KeyPath, kind_of, one_line, path_text, read_text

__all__ = [
    "Key",
    "KeyPath",
    "YamlSource",
    "check",
    "item_name",
    "one_of",
    "parse_yaml",
    "path_text",
    "read_yaml",
    "shown",
]

LARGEST_FILE = 1 << 20
COPIED_DEPTH = 2
"""A copy is an item of the file: nodes.gw3, links[7]."""


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class YamlSource:
    """A file's content as plain values, and where each key stands (line and column from 1).

    Values that crossed to another process come without positions; then errors name the key alone.
    `overrides` are the key paths whose values did not come from the file, as the user wrote them;
    `origins` says of items that are copies (`lab.repeat`) of which template, and which copy.
    """

    file: str
    data: dict[str, Any]
    positions: Mapping[KeyPath, tuple[int, int]]
    overrides: Mapping[KeyPath, str] = field(default_factory=dict)
    origins: Mapping[KeyPath, tuple[KeyPath, str]] = field(default_factory=dict)

    def place(self, path: Sequence[Key]) -> Place:
        """Where the key at `path` stands, or its nearest parent that is in the file; the override
        that is to blame where one made it."""
        path = tuple(path)
        template, copy_words = self.origins.get(path[:COPIED_DEPTH], (None, ""))
        if template is None:
            return self._place(path)
        made = next((item for item in map(partial(self._made, path), self.overrides) if item), None)
        if made is not None:
            return made
        place = self._place((*template, *path[COPIED_DEPTH:]))
        return replace(place, key=f"{place.key} ({copy_words})")

    def _place(self, path: KeyPath) -> Place:
        lengths = range(len(path), -1, -1)
        in_file = next((n for n in lengths if path[:n] in self.positions), 0)
        for override in self.overrides:
            made = self._made(path, override)
            if made is not None:
                return made
            if _shared(path, override) > in_file:
                return Place(f"{self.file}: override", key=path_text(path))
        line, column = self.positions.get(path[:in_file], (0, 0))
        return Place(self.file, line, column, path_text(path))

    def _made(self, path: KeyPath, override: KeyPath) -> Place | None:
        """The override as the place of a key that it, or what it stands above, has set."""
        if path[: len(override)] != override:
            return None
        below, written = path_text(path[len(override) :]), self.overrides[override]
        return Place(f"{self.file}: override", key=f"{written}.{below}" if below else written)

    def error(self, path: Sequence[Key], problem: str) -> ConfigError:
        """A ConfigError about the key at `path`."""
        return ConfigError(problem, self.place(path))

    def with_override(self, key: str, value: object) -> YamlSource:
        """A copy in which the dotted `key` has another value; a part of it may be an index, or the
        `name` of an item of a list. Raises ConfigError when there is no such place."""
        data = copy.deepcopy(self.data)
        path = self._set(data, key.split("."), value, key)
        return replace(self, data=data, overrides={**self.overrides, path: key})

    def _set(self, data: dict[str, Any], parts: list[str], value: object, key: str) -> KeyPath:
        here: Any = data
        path: list[Key] = []
        for depth, part in enumerate(parts):
            step = self._step(here, part, key)
            path.append(step)
            if depth == len(parts) - 1:
                here[step] = copy.deepcopy(value)
            elif isinstance(here, dict) and here.get(step) is None:
                here[step] = {}
            here = here[step]
        return tuple(path)

    def _step(self, here: object, part: str, key: str) -> Key:
        place = Place(f"{self.file}: override", key=key)
        if not part:
            raise ConfigError("an empty part, expected names with single dots between them", place)
        if isinstance(here, dict):
            return part
        if isinstance(here, list):
            if part.isdecimal() and int(part) < len(here):
                return int(part)
            names = [item_name(item) for item in here]
            if part in names:
                return names.index(part)
            known = [name for name in names if name is not None]
            raise ConfigError(f"no item {part!r}, {one_of(known, part)}", place)
        raise ConfigError(f"nothing can stand below it at {part!r}, expected a shorter key", place)


def _shared(first: KeyPath, second: KeyPath) -> int:
    """How many keys two paths have in common from the top."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def item_name(item: object) -> str | None:
    """The name of an item of a list: its `name`, or its two ends (`gw1-gw2`) where it has those."""
    if not isinstance(item, dict):
        return None
    if isinstance(item.get("name"), str):
        return str(item["name"])
    ends = item.get("ends", [item.get("initiator"), item.get("responder")])
    if isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, str) for end in ends):
        return "-".join(ends)
    return None


def read_yaml(path: Path) -> YamlSource:
    """Read a YAML file whose top is a mapping. Raises ConfigError."""
    place = Place(str(path))
    try:
        with path.open("rb") as stream:
            octets = stream.read(LARGEST_FILE + 1)
    except OSError as problem:
        raise ConfigError(f"cannot be read: {problem.strerror}", place) from problem
    if len(octets) > LARGEST_FILE:
        raise ConfigError(f"file of more than {LARGEST_FILE} octets", place)
    try:
        return parse_yaml(octets.decode(), str(path))
    except UnicodeDecodeError as problem:
        raise ConfigError(f"octet {problem.start} is not UTF-8, expected text", place) from problem


def parse_yaml(text: str, file: str = "<text>") -> YamlSource:
    """The source in `text`, said to be `file` in errors. Raises ConfigError."""
    data, positions = read_text(text, file)
    return YamlSource(file, data, positions)


def check(model: type[Model], source: YamlSource) -> Model:
    """The model that `source` holds. Raises ConfigError for the first thing wrong."""
    try:
        return model.model_validate(source.data)
    except ValidationError as problem:
        raise _config_error(problem.errors(include_url=False)[0], model, source) from None


def _config_error(error: ErrorDetails, model: type[BaseModel], source: YamlSource) -> ConfigError:
    path = _path_in_data(error["loc"], source.data)
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            known = _keys_beside(error["loc"], model)
            return source.error(path, f"unknown key, {one_of(known, str(path[-1]))}")
        case "missing":
            return source.error(path, "missing, expected it here")
        case "union_tag_not_found":
            key = str(context["discriminator"]).strip("'")
            return source.error((*path, key), "missing, expected it here")
        case "union_tag_invalid":
            key = str(context["discriminator"]).strip("'")
            tags = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
            problem = f"{context['tag']!r} is unknown, {one_of(tags, str(context['tag']))}"
            return source.error((*path, key), problem)
        case "literal_error" | "enum":
            words = str(context["expected"]).replace(" or ", ", ").split(", ")
            choices = [word.strip("'") for word in words]
            value = error["input"]
            return source.error(path, f"{value!r} is unknown, {one_of(choices, str(value))}")
        case "value_error":
            return source.error(path, str(context["error"]))
        case kind:
            expected = _EXPECTED.get(kind, one_line(error["msg"]).lower())
            bounds = {name: value for name, value in context.items() if name != "error"}
            return source.error(
                path, f"{shown(error['input'])}, expected {expected.format_map(bounds)}"
            )


_EXPECTED = {
    "string_type": "a text (in quotes where it looks like a number)",
    "string_pattern_mismatch": "a text that matches {pattern}",
    "string_too_long": "a text of at most {max_length} characters",
    "string_too_short": "a text of {min_length} or more characters",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number from {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number up to {le}",
}
"""What was expected, by pydantic's type of error."""


def _path_in_data(location: tuple[Key, ...], data: object) -> KeyPath:
    """pydantic's location as a path in the file: names of union members are not in the file."""
    path: list[Key] = []
    here: Any = data
    # Where a key itself is wrong, pydantic adds "[key]".
    location = location[:-1] if location[-1:] == ("[key]",) else location
    for depth, part in enumerate(location):
        last = depth == len(location) - 1
        if isinstance(here, dict) and (part in here or last):
            path.append(part)
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            path.append(part)
            here = here[part]
    return tuple(path)


def _keys_beside(location: tuple[Key, ...], model: type[BaseModel]) -> list[str]:
    """The keys that a file may have where an unknown one stood, as the JSON Schema lists them."""
    schema = model.model_json_schema()
    here: dict[str, Any] = schema
    for part in location[:-1]:
        here = _schema_below(here, part, schema)
    return sorted(_resolved(here, schema).get("properties", {}))


def _schema_below(here: dict[str, Any], part: Key, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of what stands at `part`, or of the union's member of that name."""
    for choice in _choices(here, schema):
        kind = choice.get("properties", {}).get("kind", {})
        if part == kind.get("const"):
            return choice
        if isinstance(part, int) and isinstance(choice.get("items"), dict):
            return dict(choice["items"])
        if part in choice.get("properties", {}):
            return dict(choice["properties"][part])
        # A mapping under free names; pydantic lists names that have a pattern by that pattern.
        named = [choice.get("additionalProperties"), *choice.get("patternProperties", {}).values()]
        for schema_of_any in named:
            if isinstance(schema_of_any, dict):
                return dict(schema_of_any)
    return here


def _choices(here: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    resolved = _resolved(here, schema)
    yield resolved
    for option in (*resolved.get("anyOf", ()), *resolved.get("oneOf", ())):
        yield from _choices(option, schema)


def _resolved(here: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in here:
        return dict(schema["$defs"][str(here["$ref"]).rsplit("/", 1)[-1]])
    options = [option for option in here.get("anyOf", ()) if "$ref" in option]
    return _resolved(options[0], schema) if options and "properties" not in here else here


def one_of(choices: Sequence[str], wrong: str) -> str:
    """ "did you mean ..." where a choice is near `wrong`, else the list of what was expected."""
    near = difflib.get_close_matches(wrong, choices, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"expected one of {', '.join(choices)}" if choices else "expected none"


def shown(value: object) -> str:
    """A value from a file in an error: short, on one line."""
    if isinstance(value, dict | list):
        return f"{kind_of(value)} here"
    text = repr(value) if value is not None else "nothing here"
    return text if len(text) <= 60 else f"{text[:57]}..."
