"""Who is told of the TCP connections that carry IKE and ESP (RFC 9329), in either world."""

from __future__ import annotations

from typing import Protocol

from ipseclab.outputs import TcpPath


class StreamListener(Protocol):
    """A world's `GatewayDriver`, as its `StreamSockets` see it."""

    def stream_accepted(self, path: TcpPath) -> None:
        """A peer has opened a connection."""

    def stream_opened(self, path: TcpPath) -> None:
        """A connection that was asked for is there."""

    def stream_sent(self, path: TcpPath, octets: int) -> None:
        """TCP has taken so many octets more."""

    def stream_closed(self, path: TcpPath, reason: str) -> None:
        """A connection is gone."""

    def receive_stream(self, path: TcpPath, octets: bytes) -> None:
        """Octets have come."""
