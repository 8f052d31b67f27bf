"""Several CHILD_SAs with the same selectors, one a resource such as a CPU (RFC 9611).

The first SA of the selectors is number 0, the fallback. An end that wants more says
SA_RESOURCE_INFO beside it; if the other says so too, the end that began makes the rest, each with
the Notify. The data is for people to read: each end numbers the SAs by itself. A responder that has
enough answers TS_MAX_QUEUE. A rekeyed SA keeps its number. Which SA carries a flow is the
datapath's choice.
"""

from __future__ import annotations

from ipseclab.errors import TsMaxQueue
from ipseclab.ike.config import ConnectionConfig
from ipseclab.ike.sa import ChildSa, IkeSa
from ipseclab.ike.selectors import Selectors
from ipseclab.registry import NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload


def resource_notify(connection: ConnectionConfig, resource: int) -> tuple[NotifyPayload, ...]:
    """What says that the SA is one of several; nothing where the connection has one alone."""
    if connection.resources == 1:
        return ()
    return (NotifyPayload(NotifyType.SA_RESOURCE_INFO, str(resource).encode()),)


def wants_resources(connection: ConnectionConfig, message: Message) -> bool:
    """True when this end and the sender of `message` both want several SAs."""
    return connection.resources > 1 and message.notify(NotifyType.SA_RESOURCE_INFO) is not None


def free_resource(
    sa: IkeSa, connection: ConnectionConfig, own_ts: Selectors, peer_ts: Selectors
) -> int:
    """The number of a further SA with those selectors. Raises TsMaxQueue when there are enough."""
    taken = {
        child.resource
        for child in sa.children.values()
        if child.usable and (child.own_ts, child.peer_ts) == (own_ts, peer_ts)
    }
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    if free >= connection.resources:
        raise TsMaxQueue(f"{len(taken)} CHILD_SAs with the same selectors already")
    return free


def further_resources(child: ChildSa) -> range:
    """The SAs that the initiator of the first one goes on to make."""
    return range(1, child.connection.resources)
