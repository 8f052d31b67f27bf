"""Other impairments for a link in use: `link_set` of a plan, `link set` at the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import ValidationError

from ipseclab.lab.impairment import ImpairmentConfig
from ipseclab.lab.model import DIRECTIONS, Direction
from ipseclab.lab.schema import ImpairmentFile
from ipseclab.lab.yaml_source import one_of

DIRECTION_KEY = "direction"
BOTH = "both"


def directions(settings: Mapping[str, object]) -> tuple[Direction, ...]:
    """The directions that the settings are for: `direction`, or both. Raises ValueError."""
    wanted = settings.get(DIRECTION_KEY, BOTH)
    if wanted == BOTH:
        return DIRECTIONS
    for direction in DIRECTIONS:
        if direction == wanted:
            return (direction,)
    raise ValueError(f"direction {wanted!r}, {one_of([*DIRECTIONS, BOTH], str(wanted))}")


def changed(config: ImpairmentConfig, settings: Mapping[str, object]) -> ImpairmentConfig:
    """`config` with other values, written as in a topology file (`delay: 20ms`, `loss: 1%`).

    Raises ValueError that says what was expected.
    """
    given = {key: value for key, value in settings.items() if key != DIRECTION_KEY}
    for key in given:
        if key not in ImpairmentFile.model_fields:
            raise ValueError(f"{key} unknown, {one_of(list(ImpairmentFile.model_fields), key)}")
    try:
        file = ImpairmentFile.model_validate(given)
    except ValidationError as problem:
        first = problem.errors()[0]
        text = str(first["msg"]).removeprefix("Value error, ")
        raise ValueError(f"{first['loc'][0]}: {text}") from None
    values = {key: getattr(file, key) for key in given}
    if file.loss is not None:
        values["loss"] = file.loss.model()
    return replace(config, **values)
