"""What a topology or an experiment file says of faults made on purpose."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    WithJsonSchema,
    model_validator,
)

from ipseclab.crypto.names import transform_named
from ipseclab.lab.faults.fault import (
    CONTENT,
    Direction,
    Exchange,
    FaultName,
    MessageKind,
    Traffic,
)
from ipseclab.lab.schema_types import (
    MOST_FAULTS,
    Name,
    NodeName,
    Seconds,
    Strict,
)
from ipseclab.lab.yaml_source import one_of
from ipseclab.registry import NotifyType, TransformType

PayloadName = Literal[
    "SA", "KE", "IDI", "IDR", "CERT", "CERTREQ", "AUTH", "NONCE", "DELETE", "VENDOR", "TSI", "TSR",
    "CP", "EAP",
]  # fmt: skip


def _notify(value: object) -> object:
    if isinstance(value, int) and 0 <= value <= 0xFFFF:
        return value
    known = [item.name for item in NotifyType]
    if value not in known:
        raise ValueError(f"{value!r} is no Notify, {one_of(known, str(value))}")
    return int(NotifyType[str(value)])


def _octets(value: object) -> object:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"{value!r} is not usable, expected octets like 00ff17") from None


def _group(value: object) -> object:
    found = transform_named(value) if isinstance(value, str) else None
    if found is None or found.type != TransformType.KE:
        raise ValueError(f"{value!r} is no group, expected one like x25519 or modp2048")
    return int(found.id)


def _listed_numbers(value: object) -> object:
    return [value] if isinstance(value, int) else value


Notify = Annotated[int, BeforeValidator(_notify), WithJsonSchema({"type": ["string", "integer"]})]
HexOctets = Annotated[bytes, BeforeValidator(_octets), WithJsonSchema({"type": "string"})]
Group = Annotated[int, BeforeValidator(_group), WithJsonSchema({"type": "string"})]
Nth = Annotated[
    list[Annotated[int, Field(ge=1)]],
    Field(min_length=1),
    BeforeValidator(_listed_numbers),
]


class FaultFile(Strict):
    """A fault of one gateway: which of its messages it befalls, and what it does."""

    name: Name | None = None
    """By default what it does and its number: drop-0."""
    node: NodeName
    do: FaultName
    direction: Direction = "out"
    """Of what the node sends (out) or of what reaches it (in)."""
    traffic: Traffic = "ike"
    exchange: Exchange | None = None
    kind: MessageKind | None = None
    nth: Nth | None = None
    """Which of the messages meant, counted from 1; by default each."""
    delay: Seconds | None = None
    """For delay, answer_late, replay; how long block lasts."""
    after: Annotated[int, Field(ge=1, le=1000)] | None = None
    """For hold: how many later messages it waits for."""
    octet: int | None = None
    """For corrupt: which octet, negative from the end; by default a drawn one."""
    octets: Annotated[int, Field(ge=0)] | None = None
    """For truncate: how many are left."""
    payload: PayloadName | None = None
    """For omit, add, repeat."""
    type: Annotated[int, Field(ge=1, le=255)] | None = None
    """For add and critical: the number of a payload type."""
    notify: Notify | None = None
    """For omit, add, repeat: a Notify by its name or number."""
    data: HexOctets | None = None
    """For add and critical: what it holds, in hexadecimal."""
    group: Group | None = None
    """For ke_group."""
    version: Annotated[int, Field(ge=0, le=255)] | None = None
    """For version: the octet, 0x30 by default."""
    bits: Annotated[int, Field(ge=0, le=0xFFFF)] | None = None
    """For key_length."""

    @model_validator(mode="after")
    def _fits(self) -> FaultFile:
        given = {key for key in _FAULT_KEYS if getattr(self, key) is not None}
        allowed = {*_FAULT_NEEDS.get(self.do, ()), *_FAULT_MAY.get(self.do, ())}
        for key in _FAULT_KEYS:
            if key in given - allowed:
                raise ValueError(f"{self.do} has no use for {key}, expected it left out")
        for key in _FAULT_NEEDS.get(self.do, ()):
            if key not in given:
                raise ValueError(f"{self.do} without {key}, expected it here")
        what = given & {"payload", "notify", "type"}
        if self.do in ("omit", "add", "repeat") and len(what) != 1:
            raise ValueError(f"{self.do} needs one thing, expected payload or notify")
        if self.do in CONTENT and (self.direction == "in" or self.traffic == "esp"):
            raise ValueError(f"{self.do} changes IKE that the node sends, expected out and ike")
        if self.traffic == "esp" and (self.exchange is not None or self.kind is not None):
            raise ValueError("ESP has no exchanges, expected no exchange and no kind")
        return self


Faults = Annotated[list[FaultFile], Field(max_length=MOST_FAULTS)]

_FAULT_KEYS = (
    "delay", "after", "octet", "octets", "payload", "type", "notify", "data", "group", "version",
    "bits",
)  # fmt: skip
"""Keys that only some faults have."""
_FAULT_NEEDS: dict[str, tuple[str, ...]] = {
    "delay": ("delay",),
    "answer_late": ("delay",),
    "replay": ("delay",),
    "truncate": ("octets",),
    "ke_group": ("group",),
}
_FAULT_MAY: dict[str, tuple[str, ...]] = {
    "block": ("delay",),
    "hold": ("after",),
    "corrupt": ("octet",),
    "omit": ("payload", "notify"),
    "repeat": ("payload", "notify"),
    "add": ("payload", "notify", "type", "data"),
    "critical": ("type", "data"),
    "version": ("version",),
    "key_length": ("bits",),
}
