"""What a fault is: which messages of which gateway it befalls, and what it does to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

FlowFault = Literal[
    "drop",
    "block",
    "hold",
    "duplicate",
    "replay",
    "delay",
    "answer_late",
    "reorder",
    "corrupt",
    "truncate",
]
ContentFault = Literal[
    "omit",
    "add",
    "repeat",
    "ke_empty",
    "ke_zero",
    "ke_group",
    "mangle_cookie",
    "wrong_spi",
    "version",
    "critical",
    "bad_icv",
    "bad_padding",
    "key_length",
    "selector_count",
    "no_delete",
]
BehaviourFault = Literal["ignore_soft_expiry", "ignore_hard_expiry", "no_retransmission"]
FaultName = FlowFault | ContentFault | BehaviourFault

FLOW: tuple[str, ...] = get_args(FlowFault)
CONTENT: tuple[str, ...] = get_args(ContentFault)
BEHAVIOUR: tuple[str, ...] = get_args(BehaviourFault)

Direction = Literal["out", "in"]
MessageKind = Literal["request", "response"]
Traffic = Literal["ike", "esp"]
Exchange = Literal[
    "IKE_SA_INIT",
    "IKE_AUTH",
    "CREATE_CHILD_SA",
    "INFORMATIONAL",
    "IKE_SESSION_RESUME",
    "IKE_INTERMEDIATE",
    "IKE_FOLLOWUP_KE",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of the gateway at `node`.

    The messages meant are those of `traffic` in `direction`, of that exchange and kind where it is
    said; `nth` counts them from 1, none means each. What the other fields are for depends on `do`.
    """

    name: str
    node: str
    do: FaultName
    direction: Direction = "out"
    traffic: Traffic = "ike"
    exchange: Exchange | None = None
    kind: MessageKind | None = None
    nth: tuple[int, ...] = ()
    delay: float = 0.0
    """Seconds: of delay, answer_late and replay; how long block lasts, 0 for ever."""
    after: int = 1
    """How many later messages a held one waits for."""
    octet: int | None = None
    """Which octet corrupt changes; negative from the end, None for one drawn."""
    octets: int = 0
    """How many octets truncate leaves."""
    payload: int | None = None
    """The type of the payload to omit, add or repeat."""
    notify: int | None = None
    """The type of the Notify payload to omit, add or repeat."""
    data: bytes = b""
    """What an added payload or Notify holds."""
    value: int | None = None
    """The group of ke_group, the version octet, the key length in bits."""
