"""Packets for the NAT's tests, and scapy as the judge of what comes out."""

import random
from ipaddress import IPv4Address

from scapy.layers.inet import ICMP, IP, TCP, UDP

from ipseclab.lab.nat import Nat, NatConfig
from ipseclab.wire.ip import build_icmp_echo, build_ipv4, build_udp

IN1, IN2 = "10.9.0.2", "10.9.0.3"
OUT, OUT2 = "192.0.2.1", "192.0.2.7"
R1, R2 = "198.51.100.2", "198.51.100.3"


def packed(address):
    return IPv4Address(address).packed


def udp(source, destination, data=b"hello", **ip):
    """A UDP packet between two "address:port"."""
    (src, sport), (dst, dport) = (end.split(":") for end in (source, destination))
    segment = build_udp(packed(src), int(sport), packed(dst), int(dport), data)
    return build_ipv4(packed(src), packed(dst), 17, segment, **ip)


def echo(source, destination, kind=8, identifier=77):
    body = build_icmp_echo(kind, identifier, 1, b"ping" * 4)
    return build_ipv4(packed(source), packed(destination), 1, body)


def tcp(source, destination, flags="S", data=b""):
    (src, sport), (dst, dport) = (end.split(":") for end in (source, destination))
    packet = IP(src=src, dst=dst, id=5) / TCP(sport=int(sport), dport=int(dport), flags=flags)
    return bytes(packet / data)


def ends(packet):
    """The "address:port" pair of a packet; its checksums are checked by building it anew."""
    seen = IP(packet)
    again = IP(packet)
    del again.chksum
    if UDP in again and again[UDP].chksum:
        del again[UDP].chksum
    if TCP in again:
        del again[TCP].chksum
    if ICMP in again:
        del again[ICMP].chksum
    assert bytes(again) == packet, "a checksum does not fit"
    if ICMP in seen:
        return f"{seen.src}:{seen[ICMP].id}", f"{seen.dst}:{seen[ICMP].id}"
    return f"{seen.src}:{seen.sport}", f"{seen.dst}:{seen.dport}"


def nat(seed=1, **settings):
    outside = [IPv4Address(OUT), IPv4Address(OUT2)]
    return Nat(NatConfig(**settings), outside=outside, rng=random.Random(seed))


def sent_as(box, source, destination, now=0.0, make=udp):
    """Send outbound; the outside end that it got."""
    result = box.outbound(make(source, destination), now)
    assert result.packet is not None, result
    return ends(result.packet)[0]


def comes_in(box, source, destination, now=0.0, make=udp):
    """Send inbound; the inside end that got it, or the reason why none did."""
    result = box.inbound(make(source, destination), now)
    return result.dropped.value if result.packet is None else ends(result.packet)[1]
