"""Internal addresses while an IKE_SA lives: given, taken, used as selectors, given back.

RFC 7296 sections 2.19, 3.15.4 (failures) and 3.15.3 (attributes asked for outside of IKE_AUTH).
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from ipseclab.errors import FailedCpRequired, InternalAddressFailure
from ipseclab.ike.configuration import Assigned, Provision, wanted_address
from ipseclab.ike.context import Context
from ipseclab.ike.leases import Lease
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.selectors import narrow
from ipseclab.outputs import InternalConfiguration
from ipseclab.registry import CfgAttributeType, CfgType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import CpAttribute, CpPayload, Payload
from ipseclab.wire.selector import TrafficSelector

_ADDRESSES = {
    CfgAttributeType.INTERNAL_IP4_ADDRESS: 4,
    CfgAttributeType.INTERNAL_IP6_ADDRESS: 16,
}
"""What asks for an address, and the size of one."""


def give(ctx: Context, sa: IkeSa, asked: CpPayload | None) -> tuple[Payload, ...]:
    """Responder: the addresses that a CFG_REQUEST in IKE_AUTH asks for, and the CFG_REPLY; from
    then on the peer's selectors are those addresses. Raises FailedCpRequired and
    InternalAddressFailure."""
    provision = sa.connection.provision
    if provision is None:
        return ()  # section 3.15.4: who has nothing to give ignores the payload
    if asked is None or asked.cfg_type != CfgType.CFG_REQUEST:
        asked = CpPayload(CfgType.CFG_REQUEST, ())
    wishes = [one for one in asked.attributes if one.type in _ADDRESSES]
    if provision.required and not wishes:
        raise FailedCpRequired("a client has to ask for an address")
    leases = _take(ctx, sa, provision, wishes)
    if not leases:
        return (provision.reply(asked, ()),) if asked.attributes else ()
    addresses = tuple(lease.address for lease in leases)
    sa.session.leases = leases
    for lease in leases:
        ctx.notice("address_given", connection=sa.connection.name, address=str(lease))
    own = _as_selectors(addresses)
    sa.connection = replace(sa.connection, peer_ts=narrow(sa.connection.peer_ts, own))
    return (provision.reply(asked, addresses),)


def _take(
    ctx: Context, sa: IkeSa, provision: Provision, wishes: list[CpAttribute]
) -> tuple[Lease, ...]:
    """A lease for each family that is asked for and has a pool. Raises InternalAddressFailure when
    all of them are used up."""
    leases: list[Lease] = []
    possible = False
    for kind, size in _ADDRESSES.items():
        wish = next((wish for wish in wishes if wish.type == kind), None)
        pools = [pool for pool in provision.pools if len(pool.first) == size]
        if wish is None or not pools:
            continue
        possible = True
        wanted = wanted_address(wish)
        tries = (ctx.leases.take(pool, sa.connection.peer_id, wanted) for pool in pools)
        lease = next((lease for lease in tries if lease is not None), None)
        if lease is not None:
            leases.append(lease)
    if not leases and (possible or provision.required):
        raise InternalAddressFailure("no address is left")
    return tuple(leases)


def accept(ctx: Context, sa: IkeSa, reply: CpPayload | None) -> None:
    """Initiator: what the gateway gives; from then on the own selectors are those addresses.
    Raises InternalAddressFailure without any, InvalidSyntax and TsUnacceptable."""
    asked = sa.connection.address_request
    assert asked is not None
    if reply is None or reply.cfg_type != CfgType.CFG_REPLY:
        raise InternalAddressFailure("the gateway gives no address")
    assigned = Assigned.of_reply(reply, asked)
    if not assigned.addresses:
        raise InternalAddressFailure("CFG_REPLY without an address")
    connection = sa.connection
    own_ts = narrow(connection.own_ts, _as_selectors(assigned.addresses))
    sa.connection = replace(connection, own_ts=own_ts)
    sa.session.assigned = assigned
    event = _event(connection.name, assigned)
    others = (one.session.assigned for one in ctx.of_connection(connection.name) if one is not sa)
    if assigned not in others:
        ctx.emit(event)
    ctx.notice(
        "address_assigned",
        connection=connection.name,
        addresses=" ".join(event.addresses),
        dns=" ".join(event.dns),
        domains=" ".join(event.domains),
    )


def known_addresses(ctx: Context, sa: IkeSa) -> tuple[str, ...]:
    """Initiator: what another IKE_SA of the connection was given: a reauthentication asks for it
    again (section 2.8.3)."""
    for other in ctx.of_connection(sa.connection.name):
        if other is not sa and other.alive and other.session.assigned is not None:
            return _texts(other.session.assigned.addresses)
    return ()


def give_back(ctx: Context, sa: IkeSa) -> None:
    """`sa` has ended: whatever it had is free again, unless another IKE_SA goes on with it."""
    session, name = sa.session, sa.connection.name
    leases, session.leases = session.leases, ()
    for lease in leases:
        ctx.leases.give_back(lease)
        ctx.notice("address_released", connection=name, address=str(lease))
    assigned, session.assigned = session.assigned, None
    if assigned is None:
        return
    left = [other.session.assigned for other in ctx.of_connection(name) if other is not sa]
    if not any(other is not None and other.addresses == assigned.addresses for other in left):
        ctx.emit(InternalConfiguration(name))
        ctx.notice("address_lost", connection=name, addresses=" ".join(_texts(assigned.addresses)))


def answer_configuration(sa: IkeSa, message: Message) -> tuple[Payload, ...]:
    """The CP payload of an INFORMATIONAL response (section 3.15): what there is to know about, with
    the addresses that the peer has already; a CFG_SET is acknowledged and nothing in it accepted.
    """
    asked = message.find(CpPayload)
    if asked is None:
        return ()
    if asked.cfg_type == CfgType.CFG_SET:
        return (CpPayload(CfgType.CFG_ACK, ()),)
    provision = sa.connection.provision
    if asked.cfg_type != CfgType.CFG_REQUEST or provision is None:
        return ()
    sizes = {_ADDRESSES[one.type] for one in asked.attributes if one.type in _ADDRESSES}
    held = (lease.address for lease in sa.session.leases)
    return (provision.reply(asked, tuple(one for one in held if len(one) in sizes)),)


def _event(connection: str, assigned: Assigned) -> InternalConfiguration:
    addresses = _texts(assigned.addresses)
    return InternalConfiguration(connection, addresses, assigned.dns, assigned.domains)


def _texts(addresses: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(str(ip_address(address)) for address in addresses)


def _as_selectors(addresses: tuple[bytes, ...]) -> tuple[TrafficSelector, ...]:
    return tuple(TrafficSelector.of_address(text) for text in _texts(addresses))
