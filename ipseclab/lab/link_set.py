"""What a `link_set` does to a link's settings; both worlds ask here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from ipseclab.errors import ConfigError
from ipseclab.lab.impairment import Bernoulli, ImpairmentConfig
from ipseclab.lab.model import BACKWARD, FORWARD
from ipseclab.lab.plan import ArgumentValue

BOTH = "both"
_KNOWN = tuple(field.name for field in fields(ImpairmentConfig))


def with_settings(
    impairments: tuple[ImpairmentConfig, ImpairmentConfig], arguments: Mapping[str, ArgumentValue]
) -> tuple[ImpairmentConfig, ImpairmentConfig]:
    """Forward and backward impairment with a link_set's arguments: `direction` says for which,
    the rest are numbers in seconds, bit/s and probabilities. Raises ConfigError."""
    wanted = arguments.get("direction", BOTH)
    if wanted not in (FORWARD, BACKWARD, BOTH):
        raise ConfigError(f"link_set: direction {wanted!r}, expected forward, backward or both")
    settings: dict[str, object] = {}
    for key, value in arguments.items():
        if key == "direction":
            continue
        if key not in _KNOWN:
            raise ConfigError(f"link_set: unknown {key!r}, expected one of {', '.join(_KNOWN)}")
        settings[key] = Bernoulli(float(value)) if key == "loss" else float(value)
    forward, backward = (
        replace(config, **settings) if wanted in (direction, BOTH) else config  # type: ignore[arg-type]
        for config, direction in zip(impairments, (FORWARD, BACKWARD), strict=True)
    )
    return forward, backward
