"""What every exchange of an endpoint shares: its tables, timers, generator, and outputs so far.

An exchange's functions take a `Context` and change it; `IkeEndpoint` hands what they emitted to the
driver at the end of each input.
"""

from __future__ import annotations

import random
from collections import Counter, deque

from ipseclab.ike.config import NAT_T_PORT, ConnectionConfig, IkeConfig
from ipseclab.ike.events import IkeOutput
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.ike.sa import ChildSa, IkeSa
from ipseclab.ike.task import Task
from ipseclab.ike.timers import Timers
from ipseclab.outputs import Notice, SendDatagram, UdpEndpoint, UdpPath
from ipseclab.wire.message import decode_header

IKE_SPI_SIZE = 8
ESP_SPI_SIZE = 4
LOWEST_ESP_SPI = 256
"""RFC 4303 section 2.1: SPIs 0 to 255 are reserved."""


class Context:
    """The mutable heart of one endpoint."""

    def __init__(self, config: IkeConfig, *, rng: random.Random) -> None:
        self.config = config
        self.rng = rng
        self.timers = Timers()
        self.sas: dict[bytes, IkeSa] = {}
        self.children: dict[bytes, ChildSa] = {}
        self.half_open: dict[tuple[bytes, UdpEndpoint], IkeSa] = {}
        self.retries: dict[bytes, tuple[IkeSa, Task]] = {}
        self.ready: deque[IkeSa] = deque()
        self.counters: Counter[str] = Counter()
        self._outputs: list[IkeOutput] = []

    def emit(self, output: IkeOutput) -> None:
        """Add one output; the order is the order in which drivers carry them out."""
        self._outputs.append(output)

    def notice(self, event: str, **details: str | int | float | bool | None) -> None:
        """Emit a Notice."""
        self._outputs.append(Notice(event, details))

    def drop(self, reason: str) -> None:
        """Count a message that is not answered."""
        self.counters[f"ike.{reason}"] += 1
        self.notice("ike_dropped", reason=reason)

    def take_outputs(self) -> list[IkeOutput]:
        """All outputs since the last call."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def queue(self, sa: IkeSa, task: Task, *, first: bool = False) -> None:
        """Have `sa` carry out `task` when its turn comes."""
        if first:
            sa.tasks.appendleft(task)
        else:
            sa.tasks.append(task)
        self.ready.append(sa)

    def send(self, path: UdpPath, octets: bytes, *, attempt: int = 0) -> None:
        """Emit an IKE message, with the non-ESP marker on port 4500 (RFC 3948 section 2.2).

        `attempt` counts from 0, for the trace.
        """
        header = decode_header(octets)
        self.notice(
            "ike_sent",
            exchange=header.exchange.name,
            message_id=header.message_id,
            request=not header.response,
            octets=len(octets),
            spi_i=header.spi_i.hex(),
            spi_r=header.spi_r.hex(),
            source=str(path.local),
            destination=str(path.remote),
            retransmission=attempt,
        )
        marker = NON_ESP_MARKER if path.local.port == NAT_T_PORT else b""
        self._outputs.append(SendDatagram(path, marker + octets))

    def connection(self, name: str) -> ConnectionConfig:
        """The connection of that name. Raises KeyError."""
        for connection in self.config.connections:
            if connection.name == name:
                return connection
        raise KeyError(f"{self.config.name} has no connection {name!r}")

    def new_ike_spi(self) -> bytes:
        """A non-zero SPI that no IKE_SA of this end has."""
        while True:
            spi = self.rng.randbytes(IKE_SPI_SIZE)
            if any(spi) and spi not in self.sas:
                return spi

    def new_child_spi(self) -> bytes:
        """An ESP SPI that no CHILD_SA of this end has."""
        while True:
            spi = self.rng.randbytes(ESP_SPI_SIZE)
            if int.from_bytes(spi, "big") >= LOWEST_ESP_SPI and spi not in self.children:
                return spi
