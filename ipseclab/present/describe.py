"""Payloads and packets in words: what a reader wants to know of each, a line at a time.

Labels are the RFC's (RFC 7296 section 1.2: SA KE Ni IDi AUTH N D TSi ...). What a peer sent is text
of its own: it is shown as text only when every character is printable, otherwise as hexadecimal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import assert_never

from ipseclab.errors import WireError
from ipseclab.ike.natt import detection_hash
from ipseclab.outputs import UdpEndpoint
from ipseclab.registry import IdType, IpProtocol, KeMethod, NotifyType, PayloadType, ProtocolId
from ipseclab.wire.ip import ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST
from ipseclab.wire.ipv6 import (
    ICMPV6_ECHO_REPLY,
    ICMPV6_ECHO_REQUEST,
    decode_ip_header,
    flow_of_packet,
)
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    CpPayload,
    DeletePayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    PsPayload,
    SaPayload,
    SkfPayload,
    SkPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorPayload,
)
from ipseclab.wire.proposal import Proposal

# Octets that are shown before "...".
MOST_HEX = 32

ECHOES: Mapping[IpProtocol, Mapping[int, str]] = {
    IpProtocol.ICMP: {ICMP_ECHO_REQUEST: "echo request", ICMP_ECHO_REPLY: "echo reply"},
    IpProtocol.ICMPV6: {ICMPV6_ECHO_REQUEST: "echo request", ICMPV6_ECHO_REPLY: "echo reply"},
}

# RFC 7427 section 4: the hash algorithms of SIGNATURE_HASH_ALGORITHMS.
SIGNATURE_HASHES: Mapping[int, str] = {
    1: "SHA1",
    2: "SHA2-256",
    3: "SHA2-384",
    4: "SHA2-512",
    5: "IDENTITY",
}

MEANINGS: Mapping[NotifyType, str] = {
    NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD: "a critical payload is of a type unknown here",
    NotifyType.INVALID_IKE_SPI: "no IKE SA has these SPIs",
    NotifyType.INVALID_MAJOR_VERSION: "only this major version is spoken",
    NotifyType.INVALID_SYNTAX: "the message breaks a rule of its format",
    NotifyType.INVALID_MESSAGE_ID: "a message ID outside the window",
    NotifyType.INVALID_SPI: "an ESP or AH packet named an SA that does not exist",
    NotifyType.NO_PROPOSAL_CHOSEN: "none of the proposals is acceptable",
    NotifyType.INVALID_KE_PAYLOAD: "another key exchange method is wanted",
    NotifyType.AUTHENTICATION_FAILED: "the peer could not be authenticated",
    NotifyType.SINGLE_PAIR_REQUIRED: "one pair of addresses a CHILD SA, please",
    NotifyType.NO_ADDITIONAL_SAS: "no more CHILD SAs on this IKE SA",
    NotifyType.INTERNAL_ADDRESS_FAILURE: "no internal address can be given",
    NotifyType.FAILED_CP_REQUIRED: "a configuration payload was required",
    NotifyType.TS_UNACCEPTABLE: "the traffic selectors do not overlap",
    NotifyType.INVALID_SELECTORS: "a packet did not match the selectors of its SA",
    NotifyType.UNACCEPTABLE_ADDRESSES: "these addresses cannot be used",
    NotifyType.UNEXPECTED_NAT_DETECTED: "a NAT where none is allowed",
    NotifyType.TEMPORARY_FAILURE: "not now: another exchange is in the way, try again",
    NotifyType.CHILD_SA_NOT_FOUND: "the CHILD SA to be rekeyed does not exist",
    NotifyType.STATE_NOT_FOUND: "nothing is half-made under that link (RFC 9370)",
    NotifyType.TS_MAX_QUEUE: "no CHILD SA more with these selectors (RFC 9611)",
    NotifyType.INITIAL_CONTACT: "the sender has no other IKE SA with this peer",
    NotifyType.SET_WINDOW_SIZE: "requests that may be outstanding at once",
    NotifyType.ADDITIONAL_TS_POSSIBLE: "narrowed: another CHILD SA could carry the rest",
    NotifyType.IPCOMP_SUPPORTED: "IP compression is offered",
    NotifyType.NAT_DETECTION_SOURCE_IP: "hash of SPIs and the sender's address and port",
    NotifyType.NAT_DETECTION_DESTINATION_IP: "hash of SPIs and the receiver's address and port",
    NotifyType.COOKIE: "proof that the initiator receives at its address",
    NotifyType.USE_TRANSPORT_MODE: "the CHILD SA is in transport mode",
    NotifyType.HTTP_CERT_LOOKUP_SUPPORTED: "certificates can be fetched by URL",
    NotifyType.REKEY_SA: "the new CHILD SA replaces this one",
    NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED: "no padding beyond the inner packet, please",
    NotifyType.NON_FIRST_FRAGMENTS_ALSO: "later fragments may use this SA too",
    NotifyType.MOBIKE_SUPPORTED: "addresses may change (RFC 4555)",
    NotifyType.ADDITIONAL_IP4_ADDRESS: "the sender can be reached there too",
    NotifyType.ADDITIONAL_IP6_ADDRESS: "the sender can be reached there too",
    NotifyType.NO_ADDITIONAL_ADDRESSES: "the sender has no other address",
    NotifyType.UPDATE_SA_ADDRESSES: "use the addresses of this message from now on",
    NotifyType.COOKIE2: "return routability check",
    NotifyType.NO_NATS_ALLOWED: "the addresses as the sender knows them",
    NotifyType.MULTIPLE_AUTH_SUPPORTED: "several authentications are possible (RFC 4739)",
    NotifyType.ANOTHER_AUTH_FOLLOWS: "another authentication follows (RFC 4739)",
    NotifyType.REDIRECT_SUPPORTED: "may be sent to another gateway (RFC 5685)",
    NotifyType.REDIRECT: "go to this gateway instead (RFC 5685)",
    NotifyType.REDIRECTED_FROM: "sent here by this gateway (RFC 5685)",
    NotifyType.EAP_ONLY_AUTHENTICATION: "mutual EAP is enough (RFC 5998)",
    NotifyType.CHILDLESS_IKEV2_SUPPORTED: "an IKE SA without CHILD SA is possible (RFC 6023)",
    NotifyType.QUICK_CRASH_DETECTION: "a token that proves a restart (RFC 6290)",
    NotifyType.IKEV2_MESSAGE_ID_SYNC_SUPPORTED: "message IDs can be synchronised (RFC 6311)",
    NotifyType.IKEV2_FRAGMENTATION_SUPPORTED: "messages may come in fragments (RFC 7383)",
    NotifyType.AUTH_LIFETIME: "seconds until authentication must be repeated (RFC 4478)",
    NotifyType.TICKET_LT_OPAQUE: "a ticket to resume with, and its lifetime (RFC 5723)",
    NotifyType.TICKET_REQUEST: "asks for a ticket to resume with (RFC 5723)",
    NotifyType.TICKET_ACK: "a ticket will be given later (RFC 5723)",
    NotifyType.TICKET_NACK: "no ticket is given (RFC 5723)",
    NotifyType.TICKET_OPAQUE: "resumes with this ticket (RFC 5723)",
    NotifyType.PUZZLE: "a puzzle to be solved first (RFC 8019)",
    NotifyType.PPK_IDENTITY: "which post-quantum preshared key is mixed in (RFC 8784)",
    NotifyType.NO_PPK_AUTH: "AUTH for a peer without that key (RFC 8784)",
    NotifyType.USE_AGGFRAG: "aggregation and fragmentation in ESP (RFC 9347)",
    NotifyType.SUPPORTED_AUTH_METHODS: "how the peer may authenticate (RFC 9593)",
    NotifyType.SA_RESOURCE_INFO: "which resource a CHILD SA is for (RFC 9611)",
    NotifyType.USE_PPK_INT: "preshared keys in IKE_INTERMEDIATE (RFC 9867)",
    NotifyType.PPK_IDENTITY_KEY: "a preshared key's name and proof of it (RFC 9867)",
    NotifyType.SIGNATURE_HASH_ALGORITHMS: "hashes for digital signatures (RFC 7427)",
    NotifyType.USE_PPK: "a post-quantum preshared key can be mixed in (RFC 8784)",
    NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED: "IKE_INTERMEDIATE is possible (RFC 9242)",
    NotifyType.ADDITIONAL_KEY_EXCHANGE: "links the exchanges of one rekey (RFC 9370)",
}


@dataclass(frozen=True, slots=True)
class Context:
    """What a payload's meaning may depend on: its message and the way it went."""

    message: Message
    source: UdpEndpoint
    destination: UdpEndpoint


def describe_payload(payload: Payload, context: Context) -> list[str]:
    """A payload in lines; the first begins with its label."""
    first, *more = _lines(payload, context)
    return [f"{first} (critical)" if payload.critical else first, *more]


def _lines(payload: Payload, context: Context) -> list[str]:
    match payload:
        case SaPayload():
            return ["SA", *(f"  {_proposal_text(proposal)}" for proposal in payload.proposals)]
        case KePayload():
            return [f"KE    {payload.method.name}, {len(payload.data)} octets"]
        case NoncePayload():
            role = "r" if context.message.response else "i"
            return [f"N{role}    {len(payload.data)} octets"]
        case IdiPayload() | IdrPayload():
            label = "IDi" if isinstance(payload, IdiPayload) else "IDr"
            return [f"{label}   {payload.id_type.name} {_id_text(payload)}"]
        case CertPayload() | CertreqPayload():
            label = payload.payload_type.name
            return [f"{label} {payload.encoding.name}, {len(payload.data)} octets"]
        case AuthPayload():
            return [f"AUTH  {payload.method.name}, {len(payload.data)} octets"]
        case NotifyPayload():
            return [_notify_text(payload, context)]
        case DeletePayload():
            return [f"D     {_delete_text(payload)}"]
        case VendorPayload():
            return [f"V     {_text_or_hex(payload.data)}"]
        case PsPayload():
            return [f"PS    {len(payload.data)} octets"]
        case TsiPayload() | TsrPayload():
            label = "TSi" if isinstance(payload, TsiPayload) else "TSr"
            return [f"{label}   {', '.join(map(str, payload.selectors)) or 'none'}"]
        case CpPayload():
            names = (f"{item.type.name}={item.value.hex()}" for item in payload.attributes)
            return [f"CP    {payload.cfg_type.name} {' '.join(names)}"]
        case EapPayload():
            return [f"EAP   {payload.code.name} {payload.identifier}, {len(payload.data)} octets"]
        case SkPayload():
            return [f"SK    {len(payload.body)} octets"]
        case SkfPayload():
            part = f"fragment {payload.number} of {payload.total}"
            return [f"SKF   {part}, {len(payload.body)} octets"]
        case UnknownPayload():
            kind = f"type {int(payload.payload_type)}"
            return [f"?     payload of unknown {kind}: {_text_or_hex(payload.data)}"]
        case _:
            assert_never(payload)


def describe_packet(next_header: int, payload: bytes) -> str:
    """What an ESP or AH packet carried: the flow of a whole IP packet, or of a transport
    segment."""
    if next_header == IpProtocol.NO_NEXT_HEADER:
        return "a dummy packet (traffic flow confidentiality)"
    name = IpProtocol(next_header).name
    if next_header not in (IpProtocol.IPV4, IpProtocol.IPV6):
        return f"{name}{_segment_text(next_header, payload)}"
    family = {IpProtocol.IPV4: "IPv4", IpProtocol.IPV6: "IPv6"}[IpProtocol(next_header)]
    try:
        flow, header = flow_of_packet(payload), decode_ip_header(payload)
    except WireError as error:
        return f"an {family} packet that does not decode: {error}"
    if flow.protocol not in (IpProtocol.ICMP, IpProtocol.ICMPV6):
        return str(flow)
    addresses = f"{ip_address(flow.source)} > {ip_address(flow.destination)}"
    upper = _segment_text(flow.protocol, payload[header.header_length :])
    return f"{IpProtocol(flow.protocol).name} {addresses}{upper}"


def _segment_text(protocol: int, segment: bytes) -> str:
    """Ports of TCP and UDP, the kind of an ICMP message."""
    if protocol in (IpProtocol.TCP, IpProtocol.UDP) and len(segment) >= 4:
        source, destination = (int.from_bytes(segment[at : at + 2], "big") for at in (0, 2))
        return f" {source} > {destination}"
    kinds = ECHOES.get(IpProtocol(protocol))
    if kinds is None or len(segment) < 8:
        return ""
    kind = kinds.get(segment[0])
    if kind is None:
        return f" type {segment[0]} code {segment[1]}"
    return f" {kind} {int.from_bytes(segment[6:8], 'big')}"


def _proposal_text(proposal: Proposal) -> str:
    """A proposal with its alternatives joined by "or", in the order of their types' first."""
    kinds = dict.fromkeys(transform.type for transform in proposal.transforms)
    words = [" or ".join(str(item) for item in proposal.of_type(kind)) for kind in kinds]
    extra = sum(len(transform.attributes) for transform in proposal.transforms)
    spi = f" SPI {proposal.spi.hex()}" if proposal.spi else ""
    unknown = f" ({extra} unknown attributes)" if extra else ""
    return f"proposal {proposal.number} {proposal.protocol.name}{spi}: {', '.join(words)}{unknown}"


def _id_text(payload: IdiPayload | IdrPayload) -> str:
    if payload.id_type in (IdType.ID_IPV4_ADDR, IdType.ID_IPV6_ADDR):
        return str(ip_address(payload.data))
    return _text_or_hex(payload.data)


def _delete_text(payload: DeletePayload) -> str:
    if payload.protocol == ProtocolId.IKE:
        return "this IKE SA"
    spis = " ".join(spi.hex() for spi in payload.spis)
    return f"{payload.protocol.name} SPI {spis}"


def _notify_text(payload: NotifyPayload, context: Context) -> str:
    kind = payload.notify_type
    about = f" {payload.protocol.name} SPI {payload.spi.hex()}" if payload.spi else ""
    meaning = MEANINGS.get(kind)
    if meaning is None:
        sort = "error" if kind.is_error else "status"
        meaning = f"{sort} notification that is unknown here"
    data = _notify_data_text(payload, context)
    return f"N({kind.name}){about}  {meaning}{f': {data}' if data else ''}"


def _notify_data_text(payload: NotifyPayload, context: Context) -> str:
    """What a notification's data says, as its RFC defines it."""
    data = payload.data
    match payload.notify_type:
        case NotifyType.NAT_DETECTION_SOURCE_IP:
            return _nat_text(data, context, context.source)
        case NotifyType.NAT_DETECTION_DESTINATION_IP:
            return _nat_text(data, context, context.destination)
        case NotifyType.INVALID_KE_PAYLOAD if len(data) == 2:
            return KeMethod(int.from_bytes(data, "big")).name
        case NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD if len(data) == 1:
            return f"type {data[0]} ({PayloadType(data[0]).name})"
        case NotifyType.SET_WINDOW_SIZE if len(data) == 4:
            return str(int.from_bytes(data, "big"))
        case NotifyType.SIGNATURE_HASH_ALGORITHMS if len(data) % 2 == 0:
            numbers = (int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
            return ", ".join(SIGNATURE_HASHES.get(number, str(number)) for number in numbers)
        case NotifyType.ADDITIONAL_IP4_ADDRESS | NotifyType.ADDITIONAL_IP6_ADDRESS if len(data) in (
            4,
            16,
        ):
            return str(ip_address(data))
        case _:
            return _text_or_hex(data) if data else ""


def _nat_text(data: bytes, context: Context, endpoint: UdpEndpoint) -> str:
    """Whether a NAT_DETECTION hash is that of the endpoint where the message was captured."""
    message = context.message
    if data == detection_hash(message.spi_i, message.spi_r, endpoint):
        return f"matches {endpoint}, no NAT up to here"
    return f"does not match {endpoint}: a NAT changed it, or one is pretended"


def _text_or_hex(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text and text.isprintable():
        return text
    shown = data[:MOST_HEX].hex()
    return f"{shown}... ({len(data)} octets)" if len(data) > MOST_HEX else shown
