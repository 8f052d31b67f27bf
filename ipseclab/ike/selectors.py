"""Traffic selectors of a CHILD_SA: what is offered, what is granted, and what an answer may say.

RFC 7296 section 2.9. An initiator that a packet set off puts that packet's own selectors first, so
that a responder which must narrow knows what has to stay in. A responder grants all that both
policies have in common, or, by its `Narrowing`, only the packet's flow or one pair of addresses; it
then says with ADDITIONAL_TS_POSSIBLE that there is more to be had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ipseclab.errors import SinglePairRequired, TsUnacceptable
from ipseclab.ike.config import Narrowing
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import Flow
from ipseclab.wire.selector import ANY_PORTS, TrafficSelector

MAX_NEGOTIATED_SELECTORS = 64
"""Of each end, in one CHILD_SA: each is compared with each."""
Selectors = tuple[TrafficSelector, ...]

_WITH_PORTS = (IpProtocol.TCP, IpProtocol.UDP, IpProtocol.ICMP, IpProtocol.ICMPV6)


@dataclass(frozen=True, slots=True)
class Trigger:
    """The flow that wants a CHILD_SA, as one selector of each end."""

    own: TrafficSelector
    peer: TrafficSelector

    @classmethod
    def of(cls, flow: Flow) -> Self:
        """The selectors of an outbound flow. ICMP's type and code stand at both ends (RFC 4301
        section 4.4.1.1); a later fragment hides its ports, which only ANY takes in."""
        own_port, peer_port = flow.source_port, flow.destination_port
        if flow.protocol in (IpProtocol.ICMP, IpProtocol.ICMPV6):
            peer_port = own_port
        elif flow.protocol not in _WITH_PORTS or not (own_port or peer_port):
            return cls(
                TrafficSelector.of_address(flow.source, flow.protocol),
                TrafficSelector.of_address(flow.destination, flow.protocol),
            )
        return cls(
            TrafficSelector.of_address(flow.source, flow.protocol, (own_port, own_port)),
            TrafficSelector.of_address(flow.destination, flow.protocol, (peer_port, peer_port)),
        )

    def offered(self) -> tuple[Selectors, Selectors]:
        """Nothing but the flow and its pair of addresses, for a peer that wants no more at once."""
        return (self.own, _any_port(self.own)), (self.peer, _any_port(self.peer))

    def is_carried_by(self, own_ts: Selectors, peer_ts: Selectors) -> bool:
        """True when an SA with those selectors carries the flow."""
        return any(self.own.is_subset_of(ts) for ts in own_ts) and any(
            self.peer.is_subset_of(ts) for ts in peer_ts
        )


@dataclass(frozen=True, slots=True)
class ChildWish:
    """Why a CHILD_SA is wanted: for the packet of `trigger`; with `selectors` (own, peer) and no
    others; as number `resource` of several with the same (RFC 9611)."""

    trigger: Trigger | None = None
    selectors: tuple[Selectors, Selectors] | None = None
    resource: int = 0

    def asked_for(self, own: Selectors, peer: Selectors) -> tuple[Selectors, Selectors]:
        """What to ask for where the policy has `own` and `peer`."""
        if self.selectors is not None:
            return self.selectors
        if self.trigger is not None:
            return (self.trigger.own, *own), (self.trigger.peer, *peer)
        return own, peer


BY_POLICY = ChildWish()
"""What the policy says, and nothing in particular."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a responder grants; `more`: another CHILD_SA could have what this one has not."""

    own_ts: Selectors
    peer_ts: Selectors
    more: bool = False


def grant(
    offered: tuple[Selectors, Selectors],
    allowed: tuple[Selectors, Selectors],
    narrowing: Narrowing,
) -> Grant:
    """The responder's answer to the (own, peer) selectors `offered`, of those that its policy has
    `allowed`. Raises TsUnacceptable and SinglePairRequired."""
    whole = Grant(narrow(offered[0], allowed[0]), narrow(offered[1], allowed[1]))
    if narrowing is Narrowing.POLICY:
        return whole
    first = offered[0][0], offered[1][0]
    specific = all(_is_address(selector) for selector in first)
    if narrowing is Narrowing.PACKET:
        if not specific:
            return whole
        return _less_than(whole, _both_within(first, allowed))
    pair = [_address_pair(selectors) for selectors in (whole.own_ts, whole.peer_ts)]
    if all(pair):
        return whole
    if not specific:
        raise SinglePairRequired("the policy wants a CHILD_SA for each pair of addresses")
    addresses = _any_port(first[0]), _any_port(first[1])
    return _less_than(whole, _both_within(addresses, (whole.own_ts, whole.peer_ts)))


def _both_within(
    wanted: tuple[TrafficSelector, TrafficSelector], allowed: tuple[Selectors, Selectors]
) -> Grant:
    return Grant(narrow((wanted[0],), allowed[0]), narrow((wanted[1],), allowed[1]))


def _less_than(whole: Grant, part: Grant) -> Grant:
    more = (whole.own_ts, whole.peer_ts) != (part.own_ts, part.peer_ts)
    return Grant(part.own_ts, part.peer_ts, more)


def _is_address(selector: TrafficSelector) -> bool:
    return selector.known and selector.start == selector.end


def _address_pair(selectors: Selectors) -> bool:
    """True when they are all of one address."""
    return all(_is_address(ts) for ts in selectors) and len({ts.start for ts in selectors}) == 1


def _any_port(selector: TrafficSelector) -> TrafficSelector:
    return TrafficSelector(selector.ts_type, 0, *ANY_PORTS, selector.start, selector.end)


def narrow(offered: Selectors, allowed: Selectors) -> Selectors:
    """What of the offered selectors the own policy allows (RFC 7296 section 2.9), without those
    that another one contains. Raises TsUnacceptable when that is nothing."""
    common = [one.intersection(two) for one in offered for two in allowed]
    distinct = tuple(dict.fromkeys([selector for selector in common if selector is not None]))
    if not distinct:
        wanted = ", ".join(map(str, allowed))
        raise TsUnacceptable(f"selectors {', '.join(map(str, offered))} do not overlap {wanted}")
    return _largest(distinct[:MAX_NEGOTIATED_SELECTORS])


def _largest(distinct: Selectors) -> Selectors:
    return tuple([one for one in distinct if not _is_inside_another(one, distinct)])


def _is_inside_another(one: TrafficSelector, distinct: Selectors) -> bool:
    # Asked of each against each: what differs most is looked at before a function is called.
    for other in distinct:
        if (
            other.start_port <= one.start_port
            and one.end_port <= other.end_port
            and other.start <= one.start
            and one.end <= other.end
            and other.protocol in (0, one.protocol)
            and one is not other
            and one.is_subset_of(other)
        ):
            return True
    return False


def check_narrowed(answer: Selectors, offered: Selectors) -> Selectors:
    """The responder's selectors, each inside an offered one. Raises TsUnacceptable."""
    for selector in answer:
        if not any(selector.is_subset_of(other) for other in offered):
            raise TsUnacceptable(f"selector {selector} is outside of what was offered")
    if not answer:
        raise TsUnacceptable("no selectors in the answer")
    return answer
