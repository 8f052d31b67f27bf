"""Quantities in lab files: plain SI numbers, or texts with a unit such as `20ms`, `1%`, `10Mbit/s`.

Times come out in seconds, rates in bit/s, sizes in octets, probabilities from 0 to 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import Enum

_TIMES = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_RATES = {"bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}
_SIZES = {
    "B": 1.0,
    "kB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
}
_SHARES = {"%": 0.01}

_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_QUANTITY = re.compile(rf"({_NUMBER})\s*([A-Za-z%/]*)")


class Quantity(Enum):
    """A kind of quantity: its units, and how to say what is expected."""

    TIME = "time"
    RATE = "rate"
    SIZE = "size"
    PROBABILITY = "probability"

    @property
    def units(self) -> Mapping[str, float]:
        """Each unit's worth in the plain number's unit."""
        return _UNITS[self]

    @property
    def expected(self) -> str:
        """What a user is told to write."""
        return _EXPECTED[self]

    @property
    def pattern(self) -> str:
        """A regular expression of the texts that are read (for a JSON Schema)."""
        return rf"^{_NUMBER}\s*({'|'.join(re.escape(unit) for unit in self.units)})?$"


_UNITS: dict[Quantity, Mapping[str, float]] = {
    Quantity.TIME: _TIMES,
    Quantity.RATE: _RATES,
    Quantity.SIZE: _SIZES,
    Quantity.PROBABILITY: _SHARES,
}
_EXPECTED = {
    Quantity.TIME: "seconds as a number, or a text like 20ms, 1.5s, 10min",
    Quantity.RATE: "bit/s as a number, or a text like 10Mbit/s, 1Gbit/s",
    Quantity.SIZE: "octets as a whole number, or a text like 64KiB, 1MB",
    Quantity.PROBABILITY: "a number from 0 to 1, or a text like 1%",
}


def parse_quantity(value: object, kind: Quantity) -> float:
    """`value` from a file as a plain number. Raises ValueError that says what was expected."""
    number = _plain(value, kind)
    if not math.isfinite(number) or number < 0.0 or (kind is Quantity.PROBABILITY and number > 1):
        raise ValueError(f"{value!r} is out of range, expected {kind.expected}")
    return number


def _plain(value: object, kind: Quantity) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value.strip())
        if match is not None:
            number, unit = match.groups()
            worth = 1.0 if not unit else kind.units.get(unit)
            if worth is not None:
                # Rounded to 15 digits: 20 * 1e-3 is to be the same float as 0.02.
                return float(f"{float(number) * worth:.15g}")
    raise ValueError(f"{value!r} is not a {kind.value}, expected {kind.expected}")


def parse_size(value: object) -> int:
    """A number of octets from a file. Raises ValueError when it is not whole."""
    number = parse_quantity(value, Quantity.SIZE)
    if number != int(number):
        raise ValueError(f"{value!r} is not a whole number, expected {Quantity.SIZE.expected}")
    return int(number)
