"""What an attacker makes of packets: altered fields, other sources, packets of its own.

Checksums that anybody can compute are made right again (RFC 1071), so that only keys can tell. What
needs a key (an ICV, a ciphertext that decrypts) it can but draw at random.
"""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address

from ipseclab.lab.attacks.attack import Attack, Field
from ipseclab.lab.attacks.sight import AH_FIXED_SIZE, Sight
from ipseclab.lab.traffic import (
    FORGED_FLOW,
    PROBE_PORT,
    SMALLEST_PROBE,
    probe_payload,
)
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import (
    DONT_FRAGMENT,
    UDP_HEADER_SIZE,
    build_ipv4,
    build_udp,
    checksum,
    pseudo_header_checksum,
)

INSERTED_OCTETS = 64
"""Payload of an inserted packet, unless told."""
_TOS_AT, _TTL_AT, _SUM_AT, _SOURCE, _DESTINATION_AT = 1, 8, 10, slice(12, 16), 16
_SEQUENCE_BEHIND_SPI = 4
_SUMS_AT = {int(IpProtocol.TCP): 16, int(IpProtocol.UDP): 6, int(IpProtocol.ICMP): 2}
_UDP = int(IpProtocol.UDP)


def place_of(field: Field, sight: Sight) -> int | None:
    """Where a field stands (an address: its last octet); None in a packet that has no such field.

    `payload` is the middle of what the packet carries: of the ciphertext of ESP, of what stands
    behind AH. `icv` is the first octet of AH's, the last of ESP's.
    """
    match field:
        case "dscp":
            return _TOS_AT
        case "ttl":
            return _TTL_AT
        case "source":
            return _SOURCE.stop - 1
        case "destination":
            return _DESTINATION_AT + 3
        case "spi":
            return sight.spi_at if sight.spi is not None else None
        case "sequence":
            return sight.spi_at + _SEQUENCE_BEHIND_SPI if sight.sequence is not None else None
        case "icv":
            return _icv_at(sight)
        case "payload":
            return (sight.content + sight.end) // 2 if sight.content < sight.end else None


def _icv_at(sight: Sight) -> int | None:
    if sight.spi is None:
        return None
    if sight.kind == "ah":
        at = sight.inner + AH_FIXED_SIZE
        return at if at < sight.end else None
    return sight.end - 1


def flipped(packet: bytes, at: int, mask: bytes) -> bytes:
    """The packet with the bits of `mask` turned over from `at` on, as far as it goes."""
    changed = bytearray(packet)
    for offset, bits in enumerate(mask[: len(packet) - at], at):
        changed[offset] ^= bits
    return bytes(changed)


def mended(packet: bytes, sight: Sight) -> bytes:
    """The packet with checksums that fit: of its IPv4 header, and of UDP, TCP and ICMP where all of
    the packet is there. A UDP checksum of zero stays none (RFC 768)."""
    changed = bytearray(packet)
    start, end = sight.start, sight.end
    changed[_SUM_AT : _SUM_AT + 2] = b"\0\0"
    changed[_SUM_AT : _SUM_AT + 2] = checksum(bytes(changed[:start])).to_bytes(2, "big")
    at = start + _SUMS_AT.get(sight.protocol, len(packet))
    if not sight.whole or at + 2 > end:
        return bytes(changed)
    if sight.protocol == _UDP and changed[at : at + 2] == b"\0\0":
        return bytes(changed)
    changed[at : at + 2] = b"\0\0"
    segment = bytes(changed[start:end])
    if sight.protocol == IpProtocol.ICMP:
        value = checksum(segment)
    else:
        addresses = bytes(changed[_SOURCE]), bytes(changed[_DESTINATION_AT : _DESTINATION_AT + 4])
        value = pseudo_header_checksum(*addresses, sight.protocol, segment)
        if sight.protocol == _UDP:
            value = value or 0xFFFF
    changed[at : at + 2] = value.to_bytes(2, "big")
    return bytes(changed)


def spoofed(packet: bytes, sight: Sight, source: IPv4Address) -> bytes:
    """A copy that says it comes from `source`."""
    changed = bytearray(packet)
    changed[_SOURCE] = source.packed
    return mended(bytes(changed), sight)


def with_payload(packet: bytes, sight: Sight, payload: bytes) -> bytes:
    """The packet with other octets from `sight.inner` on; lengths and checksums fit."""
    start, inner = sight.start, sight.inner
    changed = bytearray(packet[:inner] + payload)
    changed[2:4] = len(changed).to_bytes(2, "big")
    if sight.protocol == _UDP and inner >= start + UDP_HEADER_SIZE:
        changed[start + 4 : start + 6] = (len(changed) - start).to_bytes(2, "big")
    return mended(bytes(changed), replace(sight, end=len(changed), whole=True))


def forged(packet: bytes, sight: Sight, attack: Attack, number: int, rng: random.Random) -> bytes:
    """A packet such as the one seen, with content of the attacker's own: the `number`th, from 0.

    Of ESP and AH it has the SPI, a sequence number ahead of the one seen, and octets drawn for all
    that takes a key. A datagram in clear becomes a probe that nobody sent.
    """
    if sight.sequence is not None:
        sequence = (sight.sequence + attack.ahead + number) & 0xFFFFFFFF
        head = packet[sight.inner : sight.spi_at + 4] + sequence.to_bytes(4, "big")
        rest = sight.end - sight.inner - len(head)
        drawn = rng.randbytes(attack.octets if attack.octets is not None else rest)
        return with_payload(packet, sight, head + drawn)
    size = attack.octets if attack.octets is not None else sight.end - sight.inner
    if sight.kind == "plain" and sight.protocol == _UDP:
        payload = probe_payload(FORGED_FLOW, number, max(size, SMALLEST_PROBE))
    else:
        payload = rng.randbytes(size)
    return with_payload(packet, sight, payload)


def inserted(attack: Attack, number: int) -> bytes:
    """A datagram in clear between the two ends of an insert: a probe that nobody sent."""
    assert attack.ends is not None, f"{attack.name}: an insert of a checked file has two ends"
    source, destination = (address.packed for address in attack.ends)
    size = max(attack.octets if attack.octets is not None else INSERTED_OCTETS, SMALLEST_PROBE)
    data = probe_payload(FORGED_FLOW, number, size)
    segment = build_udp(source, PROBE_PORT, destination, PROBE_PORT, data)
    return build_ipv4(
        source,
        destination,
        IpProtocol.UDP,
        segment,
        identification=number & 0xFFFF,
        flags_fragment=DONT_FRAGMENT,
    )
