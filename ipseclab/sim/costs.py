"""Processing time in the simulator: seconds for what a node does with a message or a packet.

The model: a message costs a fixed time to make or to take in, more when it holds a key exchange; an
ESP packet costs a time of its own and a time an octet; every packet costs its way through the node.
`measure/calibrate.py` measures the numbers on a machine. Waiting in queues is not here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Any

from ipseclab.errors import ConfigError, Place
from ipseclab.registry import ExchangeType, KeMethod, PayloadType

# RFC 7296 sections 3.1, 3.2 and 3.4: where a message says what it holds.
_FIRST_PAYLOAD = 16
_EXCHANGE = 18
_FLAGS = 19
_FLAG_RESPONSE = 0x20
_HEADER_SIZE = 28
_KE_METHOD = 4
_KE_METHOD_END = 6

PUZZLE_TRY = 1.5e-6
"""Seconds for one key that is tried on a puzzle (RFC 8019): an HMAC over a cookie. Not in the
table: machines differ in it by little, and a puzzle's work spreads over orders of magnitude."""

ENCAPSULATE = "encapsulate"
"""Marks the row in `ke_agree` of what a KEM's responder does."""

DEFAULT_FILE = "default_costs.json"


@dataclass(frozen=True, slots=True)
class PacketCost:
    """Seconds for one packet, and for each octet of it."""

    packet: float = 0.0
    octet: float = 0.0

    def of(self, octets: int) -> float:
        """Seconds for a packet of that many octets."""
        return self.packet + self.octet * octets

    def times(self, factor: float) -> PacketCost:
        """So many times that cost."""
        return PacketCost(self.packet * factor, self.octet * factor)


@dataclass(frozen=True, slots=True)
class CostTable:
    """Seconds an operation; a method or suite that is not in its table costs nothing of its own.

    Key exchange is keyed by KeMethod's names ("CURVE25519"); a KEM, whose responder neither
    generates nor agrees, has in `ke_agree` a second row ("ML_KEM_768 encapsulate"). ESP is keyed
    by proposal text without key exchange and ESN ("aes128gcm16", "aes128-sha256").
    """

    machine: str = "zero"
    ike_message: float = 0.0
    """Taking in or making one IKE message: octets, protection, state machine, key derivation."""
    ke_generate: Mapping[str, float] = field(default_factory=dict)
    ke_agree: Mapping[str, float] = field(default_factory=dict)
    esp_seal: Mapping[str, PacketCost] = field(default_factory=dict)
    esp_open: Mapping[str, PacketCost] = field(default_factory=dict)
    forward: float = 0.0
    """One packet's way into a node and out again: system calls and wake-ups."""
    wake: float = 0.0
    """What a packet costs more when it finds the node asleep: waking it, and its caches cold."""

    @classmethod
    def zero(cls) -> CostTable:
        """Processing that takes no time."""
        return cls()

    @classmethod
    def default(cls) -> CostTable:
        """The table that comes with ipseclab, measured on the machine that it names."""
        return cls.from_json(files(__package__).joinpath(DEFAULT_FILE).read_text("utf-8"))

    @classmethod
    def load(cls, path: Path) -> CostTable:
        """The table in a file. Raises ConfigError."""
        try:
            return cls.from_json(path.read_text("utf-8"), str(path))
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", Place(str(path))) from error

    @classmethod
    def from_json(cls, text: str, source: str = "cost table") -> CostTable:
        """The table that `to_json` wrote. Raises ConfigError."""
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(error.msg, Place(source, error.lineno, error.colno)) from error
        expected = cls.__dataclass_fields__.keys()
        if not isinstance(content, dict) or content.keys() != expected:
            raise ConfigError(
                f"expected an object with the keys {' '.join(expected)}", Place(source)
            )
        return cls(
            machine=str(content["machine"]),
            ike_message=_seconds(content, "ike_message", source),
            ke_generate=_seconds_by_name(content, "ke_generate", source),
            ke_agree=_seconds_by_name(content, "ke_agree", source),
            esp_seal=_packet_costs(content, "esp_seal", source),
            esp_open=_packet_costs(content, "esp_open", source),
            forward=_seconds(content, "forward", source),
            wake=_seconds(content, "wake", source),
        )

    def to_json(self) -> str:
        """The table as JSON, keys sorted."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    def slower(self, times: float) -> CostTable:
        """The table of a stack that takes so many times as long for IKE and ESP; the way of
        packets through a node stays as it is."""
        return replace(
            self,
            ike_message=self.ike_message * times,
            ke_generate={name: cost * times for name, cost in self.ke_generate.items()},
            ke_agree={name: cost * times for name, cost in self.ke_agree.items()},
            esp_seal={name: cost.times(times) for name, cost in self.esp_seal.items()},
            esp_open={name: cost.times(times) for name, cost in self.esp_open.items()},
        )

    def for_ike_message(
        self, message: bytes, *, sent: bool, method: KeMethod | None = KeMethod.CURVE25519
    ) -> float:
        """Seconds for an IKE message (no non-ESP marker) that a node makes or takes in.

        Whoever sends a KE payload has generated, whoever receives one agrees. IKE_SA_INIT shows its
        method; `method` is what CREATE_CHILD_SA exchanges use, where encryption hides it (None: no
        key exchange in them).
        """
        found = _key_exchange_in(message, method)
        if found is None:
            return self.ike_message
        response = bool(message[_FLAGS] & _FLAG_RESPONSE)
        return self.ike_message + self.for_key_exchange(found, sent=sent, response=response)

    def for_key_exchange(self, method: KeMethod, *, sent: bool, response: bool) -> float:
        """Seconds for the KE payload of a request or response that a node makes or takes in."""
        encapsulate = self.ke_agree.get(f"{method.name} {ENCAPSULATE}")
        if encapsulate is not None and sent is response:
            # A KEM's responder is done once it has taken the request in.
            return 0.0 if sent else encapsulate
        table = self.ke_generate if sent else self.ke_agree
        return table.get(method.name, 0.0)

    def for_esp(self, octets: int, *, sent: bool, suite: str = "aes128gcm16") -> float:
        """Seconds to seal (`sent`) or open an ESP packet around an inner packet of `octets`."""
        cost = (self.esp_seal if sent else self.esp_open).get(suite)
        return cost.of(octets) if cost is not None else 0.0

    def for_forward(self) -> float:
        """Seconds for one packet's way through a node, whatever is done to it there."""
        return self.forward


def _key_exchange_in(message: bytes, hidden: KeMethod | None) -> KeMethod | None:
    """The method of the message's KE payload; `hidden` where only the exchange's type is seen."""
    if len(message) < _HEADER_SIZE:
        return None
    if message[_EXCHANGE] == ExchangeType.CREATE_CHILD_SA:
        return hidden
    if message[_EXCHANGE] != ExchangeType.IKE_SA_INIT:
        return None
    kind, at = message[_FIRST_PAYLOAD], _HEADER_SIZE
    while kind != PayloadType.NONE and at + _KE_METHOD_END <= len(message):
        if kind == PayloadType.KE:
            return KeMethod(int.from_bytes(message[at + _KE_METHOD : at + _KE_METHOD_END], "big"))
        size = int.from_bytes(message[at + 2 : at + _KE_METHOD], "big")
        kind, at = message[at], at + max(size, _KE_METHOD)
    return None


def _seconds(content: Mapping[str, Any], key: str, source: str) -> float:
    value = content[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        raise ConfigError(f"expected seconds, 0 or more, found {value!r}", Place(source, key=key))
    return float(value)


def _table(content: Mapping[str, Any], key: str, source: str) -> Mapping[str, Any]:
    value = content[key]
    if not isinstance(value, dict):
        raise ConfigError(f"expected an object, found {value!r}", Place(source, key=key))
    return value


def _seconds_by_name(content: Mapping[str, Any], key: str, source: str) -> dict[str, float]:
    table = _table(content, key, source)
    return {name: _seconds(table, name, f"{source}: {key}") for name in table}


def _packet_costs(content: Mapping[str, Any], key: str, source: str) -> dict[str, PacketCost]:
    costs = {}
    for name, row in _table(content, key, source).items():
        if not isinstance(row, dict) or row.keys() != {"packet", "octet"}:
            raise ConfigError(
                f"expected packet and octet, found {row!r}", Place(source, key=f"{key}.{name}")
            )
        where = f"{source}: {key}.{name}"
        costs[name] = PacketCost(_seconds(row, "packet", where), _seconds(row, "octet", where))
    return costs
