"""What charon begins, read from its log: vici's events tell of ends alone.

vici hands each line of the log over as an event (`log`), from the thread that wrote it; a request
is a line that says what is generated, then one that says that a packet is sent:

    generating CREATE_CHILD_SA request 2 [ N(REKEY_SA) SA No KE TSi TSr ]
    sending packet: from 192.0.2.1[4500] to 198.51.100.2[4500] (237 bytes)

The line's arrival is the time of what it tells; the log file's own stamps are milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

MOST_THREADS = 64
"""Own limit: threads of charon's that are remembered between two lines; it has 16."""
_GENERATING = re.compile(r"generating (?P<exchange>\w+) request \d+ \[ (?P<payloads>[^\]]*)\]")
_SENDING = "sending packet: "


class Beginning(Enum):
    """What a request begins."""

    HANDSHAKE = "handshake"
    CHILD_REKEY = "child"
    IKE_REKEY = "ike"


@dataclass(frozen=True, slots=True)
class Begun:
    """Something that charon has begun: on which of its IKE_SAs, by charon's own number for it."""

    what: Beginning
    connection: str
    unique_id: str


class LogReader:
    """Takes the lines in their order."""

    def __init__(self) -> None:
        self._generated: dict[str, Begun | None] = {}
        """By thread: what the request begins that it has built and not sent yet."""

    def take(self, line: Mapping[str, str]) -> Begun | None:
        """What has begun with this line, if anything has."""
        message, thread = line.get("msg", ""), line.get("thread", "")
        if message.startswith(_SENDING):
            return self._generated.pop(thread, None)
        found = _GENERATING.match(message)
        # The fragments of a message (RFC 7383) come after the line about the whole.
        if found is not None and not found["payloads"].startswith("EF("):
            if len(self._generated) >= MOST_THREADS:
                self._generated.clear()
            kind = _beginning(found["exchange"], found["payloads"].split())
            self._generated[thread] = _begun(kind, line) if kind is not None else None
        return None


def _begun(kind: Beginning, line: Mapping[str, str]) -> Begun:
    return Begun(kind, line.get("ikesa-name", ""), line.get("ikesa-uniqueid", ""))


def _beginning(exchange: str, payloads: list[str]) -> Beginning | None:
    if exchange == "IKE_SA_INIT":
        return Beginning.HANDSHAKE
    if exchange != "CREATE_CHILD_SA":
        return None
    if "N(REKEY_SA)" in payloads:
        return Beginning.CHILD_REKEY
    # RFC 7296 section 1.3.2: without traffic selectors it is about the IKE_SA itself.
    return None if "TSi" in payloads else Beginning.IKE_REKEY
