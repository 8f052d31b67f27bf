"""The notifications of MOBIKE, built and read (RFC 4555 section 4)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from ipseclab.errors import InvalidSyntax
from ipseclab.ike import natt
from ipseclab.ike.sa import IkeSa
from ipseclab.outputs import UdpPath
from ipseclab.registry import NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload

MIN_COOKIE2, MAX_COOKIE2 = 8, 64  # section 4.2.5
COOKIE2_SIZE = 16
MOST_ADDITIONAL = 16
"""Own limit: addresses of a peer that are remembered, and of this end that are told."""
_ADDITIONAL = {4: NotifyType.ADDITIONAL_IP4_ADDRESS, 6: NotifyType.ADDITIONAL_IP6_ADDRESS}
_SIZES = {NotifyType.ADDITIONAL_IP4_ADDRESS: 4, NotifyType.ADDITIONAL_IP6_ADDRESS: 16}
_LISTS = (*_SIZES, NotifyType.NO_ADDITIONAL_ADDRESSES)


def additional_notifies(addresses: Iterable[str]) -> tuple[NotifyPayload, ...]:
    """ADDITIONAL_IP4_ADDRESS or ADDITIONAL_IP6_ADDRESS for each."""
    parsed = [ip_address(address) for address in addresses]
    return tuple(NotifyPayload(_ADDITIONAL[one.version], one.packed) for one in parsed)


def list_notifies(addresses: Iterable[str]) -> tuple[NotifyPayload, ...]:
    """The same, or that there are none (section 3.6)."""
    found = additional_notifies(addresses)
    return found if found else (NotifyPayload(NotifyType.NO_ADDITIONAL_ADDRESSES),)


def lists_addresses(message: Message) -> bool:
    """True for a message that replaces the list of its sender's addresses."""
    return any(notify.notify_type in _LISTS for notify in message.all(NotifyPayload))


def listed_addresses(message: Message) -> tuple[str, ...]:
    """The additional addresses of a message that a peer could have, `MOST_ADDITIONAL` at most: what
    is none is passed over, as any status notification that is not understood."""
    found: dict[str, None] = {}
    for notify in message.all(NotifyPayload):
        if _SIZES.get(notify.notify_type) == len(notify.data) and len(found) < MOST_ADDITIONAL:
            address = str(ip_address(notify.data))
            if is_unicast(address):
                found[address] = None
    return tuple(found)


def is_unicast(address: str) -> bool:
    """False for what no host on another network can have."""
    parsed = ip_address(address)
    return not (parsed.is_multicast or parsed.is_unspecified or parsed.is_loopback)


def no_nats(path: UdpPath) -> NotifyPayload:
    """NO_NATS_ALLOWED for a message along `path`, of this end's (section 4.2.6)."""
    return NotifyPayload(NotifyType.NO_NATS_ALLOWED, _no_nats_data(path))


def _no_nats_data(path: UdpPath) -> bytes:
    ends = path.local, path.remote
    addresses = b"".join(ip_address(end.address).packed for end in ends)
    return addresses + b"".join(end.port.to_bytes(2, "big") for end in ends)


def unexpected_nat(sa: IkeSa, message: Message, path: UdpPath) -> bool:
    """Whether addresses were changed on the way of a request that may be believed only if they were
    not (section 3.9). What the notification says is used for nothing else."""
    if sa.nat_traversal:
        return False
    said = message.notify(NotifyType.NO_NATS_ALLOWED)
    as_sent = UdpPath(path.remote, path.local)
    return said is None or said.data != _no_nats_data(as_sent)


def protected_addresses(sa: IkeSa, path: UdpPath) -> tuple[NotifyPayload, ...]:
    """What a request says about the addresses that it is sent with: for NATs to be found, or for
    them to be refused (sections 3.5 and 3.9)."""
    if not sa.nat_traversal:
        return (no_nats(path),)
    return detection(sa, path)


def detection(sa: IkeSa, path: UdpPath) -> tuple[NotifyPayload, ...]:
    """The NAT_DETECTION pair of this IKE_SA for a message along `path`."""
    pretend = sa.connection.force_encapsulation
    return natt.detection_notifies(sa.spi_i, sa.spi_r, path, pretend=pretend)


def cookie2(message: Message) -> tuple[NotifyPayload, ...]:
    """The COOKIE2 of a request, for its response. Raises InvalidSyntax."""
    said = message.notify(NotifyType.COOKIE2)
    if said is None:
        return ()
    if not MIN_COOKIE2 <= len(said.data) <= MAX_COOKIE2:
        raise InvalidSyntax(f"COOKIE2 of {len(said.data)} octets, 8 to 64 allowed")
    return (NotifyPayload(NotifyType.COOKIE2, said.data),)


def returns_cookie2(message: Message, sent: bytes) -> bool:
    """Whether a response brings back what the request held."""
    said = message.notify(NotifyType.COOKIE2)
    return said is not None and said.data == sent
