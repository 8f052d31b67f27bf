"""A world at some moment, kept so that many schedules can begin there.

Setting two gateways up takes as long as a whole collision of theirs. What the gateways have then is
kept as octets, from which each schedule has a world of its own. What nobody can change is not
copied but shared: configurations and other frozen values, and the library's ciphers, which hold a
key and nothing else. Generators are made anew: a copy is told what to draw from (`World.reseed`).
"""

from __future__ import annotations

import io
import pickle
import random
from enum import Enum
from types import BuiltinMethodType

from ipseclab.lab.schedules.world import World

_LIBRARY = "cryptography."


class Prepared:
    """Makes copies of a world."""

    def __init__(self, world: World) -> None:
        octets = io.BytesIO()
        keeper = _Keeper(octets)
        keeper.dump(world)
        self._octets = octets.getvalue()
        self._shared = tuple(keeper.shared)

    def copy(self) -> World:
        """The world as it was, in nothing dependent on other copies; it has to be reseeded."""
        world: World = _Copier(io.BytesIO(self._octets), self._shared).load()
        return world


class _Keeper(pickle.Pickler):
    """Notes what is shared, and where it belongs."""

    def __init__(self, octets: io.BytesIO) -> None:
        super().__init__(octets, protocol=pickle.HIGHEST_PROTOCOL)
        self.shared: list[object] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, item: object) -> int | None:
        """The number of what is shared; None for what is copied."""
        if not (isinstance(item, random.Random) or _is_shared(item)):
            return None
        number = self._numbers.setdefault(id(item), len(self.shared))
        if number == len(self.shared):
            self.shared.append(item)
        return number


class _Copier(pickle.Unpickler):
    """Puts in what is shared, and new generators."""

    def __init__(self, octets: io.BytesIO, shared: tuple[object, ...]) -> None:
        super().__init__(octets)
        self._shared = shared
        self._rngs: dict[int, random.Random] = {}

    def persistent_load(self, number: int) -> object:
        """The object of that number."""
        item = self._shared[number]
        if isinstance(item, random.Random):
            return self._rngs.setdefault(number, random.Random(number))
        return item


def _is_shared(item: object) -> bool:
    owner = item.__self__ if isinstance(item, BuiltinMethodType) else item
    kind = type(owner)
    parameters = getattr(kind, "__dataclass_params__", None)
    frozen = parameters is not None and parameters.frozen
    return frozen or isinstance(item, Enum) or kind.__module__.startswith(_LIBRARY)
