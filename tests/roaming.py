"""A Pair whose ends have several addresses: what comes from or goes to one that is gone is lost."""

from __future__ import annotations

from ipaddress import ip_address

from pair import ADDRESSES, Fate, Pair, Sent, make_pair
from transcript import opened, transcript

from ipseclab.ike.config import Retransmission
from ipseclab.ike.mobike.settings import Mobike
from ipseclab.outputs import SendPacket
from ipseclab.wire.payloads import NotifyPayload

HOME, OFFICE = ADDRESSES
CAFE = "203.0.113.7"
SECOND = "198.51.100.2"
"""A further address of the responder."""
QUICK = {"retransmission": Retransmission(timeout=0.5, base=1.2, tries=8)}
STATIONARY = Mobike(own=(CAFE,))
_IPV4_ADDRESSES = (slice(12, 16), slice(16, 20))


class Roaming:
    """Which addresses each end has, and which ways are cut."""

    def __init__(self, pair: Pair, *ends: tuple[str, ...]) -> None:
        self.pair = pair
        self.ends = list(ends)
        self.cut: set[tuple[str, str]] = set()
        pair.fate = self.fate

    def fate(self, sent: Sent) -> Fate:
        source, destination = addresses_of(sent)
        here, there = self.ends[sent.sender], self.ends[1 - sent.sender]
        lost = source not in here or destination not in there
        return () if lost or (source, destination) in self.cut else (0.0,)

    def change(self, side: int, *addresses: str) -> None:
        """That end has these addresses now, and knows it."""
        self.ends[side] = addresses
        self.pair.do(side, "change_addresses", addresses)

    def cut_way(self, one: str, other: str) -> None:
        """Nothing passes between those two addresses any more."""
        self.cut |= {(one, other), (other, one)}

    def works(self) -> None:
        """Both ends agree, and packets pass both ways."""
        fate = self.pair.fate
        assert self.pair.ike_spis(0) == self.pair.ike_spis(1)
        assert self.pair.spis(0) == self.pair.spis(1)
        assert len(self.pair.spis(0)) == 1
        for side in (0, 1):
            packet = self.pair.send(side, 77)
            self.pair.run(0.1)
            assert self.pair.delivered[1 - side][-1:] == [packet]
        self.pair.fate = fate


def addresses_of(sent: Sent) -> tuple[str, str]:
    """Source and destination of what was sent, ESP included."""
    if isinstance(sent.item, SendPacket):
        packet = sent.item.packet
        source, destination = (str(ip_address(packet[part])) for part in _IPV4_ADDRESSES)
        return source, destination
    path = sent.item.path
    return path.local.address, path.remote.address


def roaming(
    *,
    a: Mobike | None = None,
    b: Mobike | None = None,
    both: dict[str, object] | None = None,
    **options: object,
) -> Roaming:
    """A pair with MOBIKE at both ends, not connected yet."""
    sides = [one if one is not None else Mobike() for one in (a, b)]
    pair = make_pair(both=both, a={"mobike": sides[0]}, b={"mobike": sides[1]}, **options)
    return Roaming(pair, (HOME, *sides[0].own), (OFFICE, *sides[1].own))


def connected(**options: object) -> Roaming:
    """The same, with the connection up."""
    net = roaming(**options)  # type: ignore[arg-type]
    net.pair.connect()
    net.works()
    return net


def since(net: Roaming, first: int) -> list[str]:
    """The IKE messages sent after the first so many things."""
    return transcript(net.pair, first=first)


def notifies(pair: Pair, sent: Sent) -> dict[int, bytes]:
    """The notifications of a message, by type."""
    _message, payloads = opened(pair, sent)
    found = [one for one in payloads if isinstance(one, NotifyPayload)]
    return {one.notify_type: one.data for one in found}


def esp_ways(pair: Pair, first: int) -> list[tuple[str, str]]:
    """Source and destination of the ESP packets sent since."""
    return [addresses_of(sent) for sent in pair.sent[first:] if sent.header is None]
