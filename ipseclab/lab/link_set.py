"""What a `link_set` does to a link's impairments; both worlds and the prompt ask here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from ipseclab.errors import ConfigError
from ipseclab.lab.impairment import ImpairmentConfig
from ipseclab.lab.model import DIRECTIONS
from ipseclab.lab.schema_network import ImpairmentFile
from ipseclab.lab.yaml_source import one_of

DIRECTION_KEY = "direction"
BOTH = "both"
FIXED = {"mtu": "expected in the topology file: interfaces and tunnels are made for it"}
"""What a link keeps: nobody would tell the senders, and their packets would vanish."""


def with_settings(
    impairments: tuple[ImpairmentConfig, ImpairmentConfig], arguments: Mapping[str, object]
) -> tuple[ImpairmentConfig, ImpairmentConfig]:
    """Forward and backward impairment with a link_set's arguments: `direction` says for which, the
    rest is written as in a topology file (0.02 or 20ms, 0.1 or 10%). Raises ConfigError."""
    wanted = arguments.get(DIRECTION_KEY, BOTH)
    choices = [*DIRECTIONS, BOTH]
    if wanted not in choices:
        problem = f"link_set: direction {wanted!r} is unknown, {one_of(choices, str(wanted))}"
        raise ConfigError(problem)
    values = _values({key: item for key, item in arguments.items() if key != DIRECTION_KEY})
    forward, backward = (
        replace(config, **values) if wanted in (direction, BOTH) else config
        for config, direction in zip(impairments, DIRECTIONS, strict=True)
    )
    return forward, backward


def _values(settings: Mapping[str, object]) -> dict[str, Any]:
    """The settings as an ImpairmentConfig has them."""
    known = [key for key in ImpairmentFile.model_fields if key not in FIXED]
    for key in settings:
        if key in FIXED:
            raise ConfigError(f"link_set: {key} is fixed while the lab is up, {FIXED[key]}")
        if key not in known:
            raise ConfigError(f"link_set: {key!r} is unknown, {one_of(known, key)}")
    try:
        file = ImpairmentFile.model_validate(dict(settings))
    except ValidationError as problem:
        first = problem.errors()[0]
        text = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"link_set: {first['loc'][0]}: {text}") from None
    values = {key: getattr(file, key) for key in settings}
    if file.loss is not None:
        values["loss"] = file.loss.model()
    return values
