"""Messages that a gateway did not mean to send, sealed as if it had: a peer that misbehaves."""

from __future__ import annotations

from pair import ADDRESSES, Pair, Sent

from ipseclab.ike.protection import Envelope
from ipseclab.ike.sa import IkeSa
from ipseclab.outputs import UdpEndpoint, UdpPath
from ipseclab.registry import ExchangeType
from ipseclab.wire.payloads import Payload


def path_to(receiver: int, *, source: UdpEndpoint | None = None, port: int = 500) -> UdpPath:
    """The path of a datagram that arrives at `receiver`, from the other end unless told."""
    own = UdpEndpoint(ADDRESSES[receiver], port)
    return UdpPath(
        own, source if source is not None else UdpEndpoint(ADDRESSES[1 - receiver], port)
    )


def ike_sa(pair: Pair, side: int) -> IkeSa:
    """The one IKE_SA of that side."""
    (sa,) = pair.gateways[side].ike.ike_sas
    return sa


def forge(
    pair: Pair,
    sender: int,
    exchange: ExchangeType,
    *payloads: Payload,
    message_id: int | None = None,
    response: bool = False,
    sa: IkeSa | None = None,
) -> bytes:
    """A message of `sender`, by default with the message ID that its next request would have."""
    sa = sa if sa is not None else ike_sa(pair, sender)
    assert sa.protection is not None
    number = message_id if message_id is not None else sa.next_message_id
    envelope = Envelope(sa.spi_i, sa.spi_r, exchange, sa.initiator, response, number)
    return sa.protection.seal(envelope, payloads)


def receive(pair: Pair, side: int, octets: bytes, path: UdpPath | None = None) -> list[Sent]:
    """Let `side` receive an IKE message; what it sent in answer."""
    before = len(pair.sent)
    pair.do(side, "receive_datagram", path if path is not None else path_to(side), octets)
    return pair.sent[before:]
