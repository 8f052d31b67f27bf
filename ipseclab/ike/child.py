"""CHILD_SAs: offered, answered and put into service; in IKE_AUTH or in CREATE_CHILD_SA.

RFC 7296 sections 1.2, 1.3.1 and 1.3.3 (exchanges), 2.9 (selectors), 2.17 (keys), 2.23.1 (transport
mode behind a NAT). The CREATE_CHILD_SA exchange itself is in `create.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from math import inf

from ipseclab.errors import InvalidSyntax, NoAdditionalSas, NoProposalChosen, TsUnacceptable
from ipseclab.ike.child_options import NO_OPTIONS, ChildOptions, agreed, granted, offered
from ipseclab.ike.config import ConnectionConfig, Mode, Narrowing, Ppk
from ipseclab.ike.context import Context
from ipseclab.ike.events import ChildSaReady
from ipseclab.ike.informational import DeleteSpi
from ipseclab.ike.keys import child_keys, mix_sk_d
from ipseclab.ike.negotiation import (
    check_chosen,
    choose_proposal,
    with_spi,
    without_key_exchange,
)
from ipseclab.ike.ppk_exchange import taken
from ipseclab.ike.proposals import child_suite_of, proposal_text, transform_names
from ipseclab.ike.resources import free_resource, resource_notify, wants_resources
from ipseclab.ike.sa import ChildSa, ChildState, IkeSa
from ipseclab.ike.selectors import (
    BY_POLICY,
    ChildWish,
    Grant,
    Selectors,
    check_narrowed,
    grant,
    narrow,
)
from ipseclab.outputs import EspKeyLog
from ipseclab.registry import KeMethod, NotifyType, ProtocolId, TransformType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload, Payload, SaPayload, TsiPayload, TsrPayload
from ipseclab.wire.proposal import Proposal
from ipseclab.wire.selector import TrafficSelector


@dataclass(frozen=True, slots=True)
class ChildOffer:
    """What this end proposed for a CHILD_SA; `payloads` is SA, TSi, TSr and the mode's Notify."""

    connection: ConnectionConfig
    spi_in: bytes
    proposals: tuple[Proposal, ...]
    own_ts: Selectors
    peer_ts: Selectors
    payloads: tuple[Payload, ...]
    replaces: ChildSa | None = None
    resource: int = 0
    options: ChildOptions = NO_OPTIONS
    ppks: tuple[Ppk, ...] = ()
    """Fresh keys that the request names (RFC 9867)."""


def offer_child(
    ctx: Context,
    sa: IkeSa,
    connection: ConnectionConfig,
    *,
    with_ke: KeMethod | None,
    replaces: ChildSa | None = None,
    wish: ChildWish = BY_POLICY,
) -> ChildOffer:
    """An offer by the connection's configuration; `with_ke` None leaves key exchange out.

    A rekey asks for what the old SA has (RFC 7296 section 2.9.2).
    """
    proposals = connection.esp_proposals
    if with_ke is None:
        proposals = without_key_exchange(proposals)
    spi_in = ctx.new_child_spi()
    proposals = with_spi(proposals, spi_in)
    if replaces is not None:
        wish = ChildWish(selectors=(replaces.own_ts, replaces.peer_ts), resource=replaces.resource)
    own_ts, peer_ts = wish.asked_for(connection.own_ts, connection.peer_ts)
    if connection.mode is Mode.TRANSPORT and sa.encapsulated:
        own_ts, peer_ts = _at_ends_of(sa, own_ts, peer_ts)
    transport = (NotifyPayload(NotifyType.USE_TRANSPORT_MODE),)
    old = replaces.options if replaces is not None else None
    options, notifies = offered(connection, ctx.rng, rekeys=old)
    return ChildOffer(
        connection,
        spi_in,
        proposals,
        own_ts,
        peer_ts,
        (
            *(transport if connection.mode is Mode.TRANSPORT else ()),
            *resource_notify(connection, wish.resource),
            *notifies,
            SaPayload(proposals),
            TsiPayload(own_ts),
            TsrPayload(peer_ts),
        ),
        replaces,
        wish.resource,
        options,
    )


def narrowed(offer: ChildOffer, connection: ConnectionConfig) -> ChildOffer:
    """The offer as the connection would make it now: an address that came beside the answer is the
    only one that the answer may hold (section 2.19)."""
    if connection is offer.connection:
        return offer
    own_ts = narrow(offer.own_ts, connection.own_ts)
    return replace(offer, connection=connection, own_ts=own_ts)


def finish_child(
    ctx: Context,
    sa: IkeSa,
    offer: ChildOffer,
    message: Message,
    nonces: tuple[bytes, bytes],
    secret: bytes,
    additional: bytes = b"",
) -> ChildSa:
    """The initiator takes the responder's answer to `offer`. Raises IkeError when it is not one of
    what was offered; the peer, which holds the SA already, is then sent a DELETE."""
    try:
        return _finish(ctx, sa, offer, message, nonces, secret, additional)
    except (InvalidSyntax, NoProposalChosen, TsUnacceptable):
        ctx.queue(sa, DeleteSpi(offer.spi_in, offer.connection.child_protocol))
        raise


def _finish(
    ctx: Context,
    sa: IkeSa,
    offer: ChildOffer,
    message: Message,
    nonces: tuple[bytes, bytes],
    secret: bytes,
    additional: bytes,
) -> ChildSa:
    sa_payload, tsi, tsr = _child_payloads(message)
    proposal = check_chosen(sa_payload.proposals, offer.proposals)
    transport = message.notify(NotifyType.USE_TRANSPORT_MODE) is not None
    mode = Mode.TRANSPORT if transport else Mode.TUNNEL
    if mode is not offer.connection.mode:
        raise NoProposalChosen(f"peer wants {mode.value} mode, not {offer.connection.mode.value}")
    own_ts, peer_ts = tsi.selectors, tsr.selectors
    if transport and sa.encapsulated:
        own_ts, peer_ts = _at_ends_of(sa, own_ts, peer_ts)
    child = ChildSa(
        ike=sa,
        connection=offer.connection,
        spi_in=offer.spi_in,
        spi_out=proposal.spi,
        mode=mode,
        own_ts=check_narrowed(own_ts, offer.own_ts),
        peer_ts=check_narrowed(peer_ts, offer.peer_ts),
        proposal=proposal,
        made_by_peer=False,
        lowest_nonce=min(nonces),
        replaces=offer.replaces.spi_in if offer.replaces is not None else None,
        options=agreed(offer.connection, offer.options, message, rekeys=offer.replaces is not None),
        resource=offer.resource,
        ppk=taken(message, offer.ppks),
    )
    outbound = offer.replaces is None
    install(ctx, child, nonces, secret, additional, use_outbound=outbound)
    return child


def answer_child(
    ctx: Context,
    sa: IkeSa,
    message: Message,
    nonces: tuple[bytes, bytes],
    secret: bytes,
    *,
    in_auth: bool,
    replaces: ChildSa | None,
    proposal: Proposal | None = None,
) -> tuple[Payload, ...]:
    """The responder makes the CHILD_SA that `message` asks for, and returns SA, TSi, TSr and mode.

    `proposal` is one already chosen. Raises NoProposalChosen, TsUnacceptable, NoAdditionalSas.
    """
    child, payloads = grant_child(
        ctx, sa, message, nonces, in_auth=in_auth, replaces=replaces, proposal=proposal
    )
    install_granted(ctx, child, nonces, secret, replaces=replaces)
    return payloads


def grant_child(
    ctx: Context,
    sa: IkeSa,
    message: Message,
    nonces: tuple[bytes, bytes],
    *,
    in_auth: bool,
    replaces: ChildSa | None,
    proposal: Proposal | None = None,
) -> tuple[ChildSa, tuple[Payload, ...]]:
    """The CHILD_SA that the responder is going to make, without keys, and its payloads.

    Raises as `answer_child`."""
    connection = sa.connection
    sa_payload, tsi, tsr = _child_payloads(message)
    if len(sa.children) >= ctx.config.limits.children_per_ike:
        raise NoAdditionalSas(f"{len(sa.children)} CHILD_SAs already")
    if proposal is None:
        proposal = choose_esp(sa_payload.proposals, connection, in_auth=in_auth)
    asked = message.notify(NotifyType.USE_TRANSPORT_MODE) is not None
    if connection.mode is Mode.TRANSPORT and not asked:
        raise NoProposalChosen("the connection is transport mode, the peer asks for tunnel mode")
    mode = connection.mode
    grant_of = _granted(sa, mode, tsi, tsr, replaces)
    own_ts, peer_ts = grant_of.own_ts, grant_of.peer_ts
    if replaces is None:
        ctx.claims.require_free(sa, own_ts, peer_ts)
    if replaces is not None:
        resource = replaces.resource
    elif wants_resources(connection, message):
        resource = free_resource(sa, connection, own_ts, peer_ts)
    else:
        resource = 0
    old = replaces.options if replaces is not None else None
    options, notifies = granted(connection, ctx.rng, message, rekeys=old)
    child = ChildSa(
        ike=sa,
        connection=connection,
        spi_in=ctx.new_child_spi(),
        spi_out=proposal.spi,
        mode=mode,
        own_ts=own_ts,
        peer_ts=peer_ts,
        proposal=proposal,
        made_by_peer=True,
        lowest_nonce=min(nonces),
        replaces=replaces.spi_in if replaces is not None else None,
        options=options,
        resource=resource,
    )
    if replaces is not None:
        replaces.peer_replacement = child
    return child, _answer(child, message, notifies, more=grant_of.more)


def _answer(
    child: ChildSa, message: Message, notifies: tuple[Payload, ...], *, more: bool
) -> tuple[Payload, ...]:
    """What tells the initiator of `message` which CHILD_SA it was given."""
    transport = NotifyPayload(NotifyType.USE_TRANSPORT_MODE)
    more_possible = NotifyPayload(NotifyType.ADDITIONAL_TS_POSSIBLE)
    several = wants_resources(child.connection, message)
    offered = child.proposal
    chosen = Proposal(offered.number, offered.protocol, child.spi_in, offered.transforms)
    return (
        *((transport,) if child.mode is Mode.TRANSPORT else ()),
        *((more_possible,) if more else ()),
        *(resource_notify(child.connection, child.resource) if several else ()),
        *notifies,
        SaPayload((chosen,)),
        TsiPayload(child.peer_ts),
        TsrPayload(child.own_ts),
    )


def install_granted(
    ctx: Context,
    child: ChildSa,
    nonces: tuple[bytes, bytes],
    secret: bytes,
    additional: bytes = b"",
    *,
    replaces: ChildSa | None,
) -> None:
    """Put a CHILD_SA that was granted into service.

    Packets could overtake our response, which the peer needs to open them (section 2.8): a first SA
    waits for the peer's first packet or a round trip, a rekeyed one for the old one's DELETE too.
    """
    waits = replaces is not None and replaces.state is not ChildState.GONE
    hold = inf if waits else child.ike.round_trip
    install(ctx, child, nonces, secret, additional, use_outbound=False, hold=hold)


def choose_esp(
    offered: tuple[Proposal, ...], connection: ConnectionConfig, *, in_auth: bool
) -> Proposal:
    """One ESP proposal, or AH where the connection has that, that both allow. Raises
    NoProposalChosen."""
    own = connection.esp_proposals
    if in_auth:
        offered, own = without_key_exchange(offered), without_key_exchange(own)
    return choose_proposal(offered, own, connection.child_protocol)


def install(
    ctx: Context,
    child: ChildSa,
    nonces: tuple[bytes, bytes],
    secret: bytes,
    additional: bytes = b"",
    *,
    use_outbound: bool,
    hold: float = 0.0,
) -> None:
    """Derive the keys of `child`, enter it into the tables, and hand it to the datapath."""
    sa = child.ike
    assert sa.prf is not None
    assert sa.keys is not None
    suite, sk_d = child_suite_of(child.proposal), sa.keys.sk_d
    if child.ppk is not None:
        sk_d, sa.ppk = mix_sk_d(sa.prf, sk_d, child.ppk.key), child.ppk
    keys = child_keys(sa.prf, suite, sk_d, nonces, secret, additional)
    to_responder, to_initiator = (keys.encr_i, keys.integ_i), (keys.encr_r, keys.integ_r)
    inbound, outbound = (
        (to_responder, to_initiator) if child.made_by_peer else (to_initiator, to_responder)
    )
    sa.children[child.spi_in] = child
    ctx.children[child.spi_in] = child
    ctx.claims.add(child)
    child.installed = True
    # AH has no form in UDP: it passes no NAT, and says so by failing (RFC 3715 section 2.1).
    encapsulated = sa.encapsulated and child.proposal.protocol == ProtocolId.ESP
    _announce(ctx, child, encapsulated)
    ctx.emit(
        ChildSaReady(
            connection=child.connection,
            spi_in=child.spi_in,
            spi_out=child.spi_out,
            mode=child.mode,
            own_ts=child.own_ts,
            peer_ts=child.peer_ts,
            proposal=child.proposal,
            suite=suite,
            encr_key_in=inbound[0],
            integ_key_in=inbound[1],
            encr_key_out=outbound[0],
            integ_key_out=outbound[1],
            path=sa.path,
            mobile=sa.mobility is not None,
            encapsulate=encapsulated,
            use_outbound=use_outbound,
            hold=hold,
            resource=child.resource,
            options=child.options,
        )
    )
    _log_keys(ctx, child, inbound, outbound)


def _announce(ctx: Context, child: ChildSa, encapsulated: bool) -> None:
    ctx.notice(
        "child_ready",
        connection=child.connection.name,
        spi_in=child.spi_in.hex(),
        spi_out=child.spi_out.hex(),
        mode=child.mode.value,
        protocol=child.proposal.protocol.name.lower(),
        encapsulated=encapsulated,
        rekeys=child.replaces.hex() if child.replaces is not None else None,
        role="responder" if child.made_by_peer else "initiator",
        proposal=proposal_text(child.proposal),
    )


def _log_keys(
    ctx: Context, child: ChildSa, inbound: tuple[bytes, bytes], outbound: tuple[bytes, bytes]
) -> None:
    if child.proposal.protocol != ProtocolId.ESP:
        return  # AH hides nothing, and no decryption table has a place for its keys
    names = transform_names(child.proposal.transforms)
    encr, integ = names[TransformType.ENCR], names.get(TransformType.INTEG, "none")
    own, peer = child.ike.path.local.address, child.ike.path.remote.address
    for spi, source, destination, keys in (
        (child.spi_in, peer, own, inbound),
        (child.spi_out, own, peer, outbound),
    ):
        ctx.emit(EspKeyLog(spi, source, destination, encr, integ, *keys))


def _child_payloads(message: Message) -> tuple[SaPayload, TsiPayload, TsrPayload]:
    sa_payload, tsi, tsr = (
        message.find(SaPayload),
        message.find(TsiPayload),
        message.find(TsrPayload),
    )
    if sa_payload is None or tsi is None or tsr is None:
        raise InvalidSyntax("no SA, TSi or TSr")
    return sa_payload, tsi, tsr


def _granted(
    sa: IkeSa, mode: Mode, tsi: TsiPayload, tsr: TsrPayload, replaces: ChildSa | None
) -> Grant:
    """The selectors that the responder grants. Raises TsUnacceptable and SinglePairRequired.

    A rekey is granted what the old SA has: no less, whatever the policy makes of a packet named
    first, and no more (RFC 7296 section 2.9.2).

    In transport mode behind a NAT the peer wrote addresses from before translation: those that its
    packets arrive with are put in their place, here and in the answer (RFC 7296 section 2.23.1).
    A peer behind a NAT may have any address, so that its identity alone decides.
    """
    connection = sa.connection
    own_ts, peer_ts = tsr.selectors, tsi.selectors
    allowed_own, allowed_peer = connection.own_ts, connection.peer_ts
    narrowing = connection.narrowing
    if replaces is not None:
        allowed_own, allowed_peer = replaces.own_ts, replaces.peer_ts
        narrowing = Narrowing.POLICY
    if mode is Mode.TRANSPORT and sa.encapsulated:
        own_ts, peer_ts = _at_ends_of(sa, own_ts, peer_ts)
        if sa.peer_behind_nat:
            allowed_peer = _at_address(allowed_peer, sa.path.remote.address)
    if not (own_ts and peer_ts):
        raise TsUnacceptable("no selectors in the request")
    return grant((own_ts, peer_ts), (allowed_own, allowed_peer), narrowing)


def _at_ends_of(sa: IkeSa, own: Selectors, peer: Selectors) -> tuple[Selectors, Selectors]:
    """The selectors with the addresses that this end sees in the IKE_SA's messages."""
    path = sa.path
    return _at_address(own, path.local.address), _at_address(peer, path.remote.address)


def _at_address(selectors: Selectors, address: str) -> Selectors:
    """The selectors with that one address in place of theirs."""
    packed = ip_address(address).packed
    moved = (
        TrafficSelector(s.ts_type, s.protocol, s.start_port, s.end_port, packed, packed)
        for s in selectors
        if len(s.start) == len(packed)
    )
    return tuple(dict.fromkeys(moved))
