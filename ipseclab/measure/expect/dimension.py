"""Units of what an expectation compares: which go together, and how they are written.

Inside an expression a quantity counts in seconds and bits, so that octets over seconds and bit/s
are the same thing. A bare number has no unit of its own: it is read in the unit of what it is added
to or compared with, as numbers elsewhere in lab files are plain SI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ipseclab.lab.units import Quantity


@dataclass(frozen=True, slots=True)
class Unit:
    """Exponents of second and bit, and how many seconds and bits one of it is."""

    seconds: int = 0
    bits: int = 0
    scale: float = 1.0
    name: str = ""

    def alike(self, other: Unit) -> bool:
        """True when one can be added to or compared with the other."""
        return (self.seconds, self.bits) == (other.seconds, other.bits)

    def times(self, other: Unit) -> Unit:
        """The unit of a product."""
        return _joined(self, other, 1)

    def over(self, other: Unit) -> Unit:
        """The unit of a quotient."""
        return _joined(self, other, -1)

    def __str__(self) -> str:
        if self.name:
            return self.name
        above = _factors((("bit", self.bits), ("s", self.seconds)), 1)
        below = _factors((("bit", self.bits), ("s", self.seconds)), -1)
        return f"{above or '1'}/{below}" if below else above


NUMBER = Unit()
SECONDS = Unit(seconds=1, name="s")
OCTETS = Unit(bits=1, scale=8.0, name="octets")
BIT_RATE = Unit(bits=1, seconds=-1, name="bit/s")

UNITS: Mapping[str, Unit] = {
    "": NUMBER,
    "1": NUMBER,
    "packets": Unit(name="packets"),
    "s": SECONDS,
    "octets": OCTETS,
    "bit/s": BIT_RATE,
}
"""By the name that metrics and parameters have."""


def unit_named(name: str) -> Unit:
    """The unit that a metric or a parameter names; one unknown here goes with plain numbers."""
    return UNITS[name] if name in UNITS else Unit(name=name)


LITERALS: Mapping[str, tuple[float, Unit]] = {
    **{name: (worth, SECONDS) for name, worth in Quantity.TIME.units.items()},
    **{name: (worth, BIT_RATE) for name, worth in Quantity.RATE.units.items()},
    **{name: (worth, OCTETS) for name, worth in Quantity.SIZE.units.items()},
    **{name: (worth, NUMBER) for name, worth in Quantity.PROBABILITY.units.items()},
    "octets": (1.0, OCTETS),
}
"""What may stand behind a number: its worth in the plain unit, and that unit."""


def _joined(one: Unit, other: Unit, sign: int) -> Unit:
    """A product keeps the name of the only factor that has a unit."""
    if other.alike(NUMBER):
        return one
    if one.alike(NUMBER) and sign > 0:
        return other
    made = Unit(one.seconds + sign * other.seconds, one.bits + sign * other.bits)
    return next((unit for unit in (SECONDS, BIT_RATE) if unit.alike(made)), made)


def _factors(bases: tuple[tuple[str, int], ...], sign: int) -> str:
    words = [
        base if sign * power == 1 else f"{base}^{sign * power}"
        for base, power in bases
        if sign * power > 0
    ]
    return " ".join(words)
