"""IKE and ESP in TCP as `decode` finds them in a capture."""

from __future__ import annotations

import pytest

from ipseclab.ike.tcp_stream import STREAM_PREFIX, frame
from ipseclab.lab.pcapng import CapturedPacket
from ipseclab.present.sighting import Sighting, sighting_in
from ipseclab.sim.tcp import Segment, encode_segment
from ipseclab.wire.ip import build_ipv4

SOURCE, TARGET = bytes((192, 0, 2, 1)), bytes((198, 51, 100, 1))
IKE, ESP = b"an IKE message", b"\1\2\3\4 an ESP packet"


def seen(payload: bytes, port: int = 4500) -> Sighting | None:
    segment = encode_segment(Segment(61_000, port, 1, 1, 0x10, 100, payload), SOURCE, TARGET)
    packet = build_ipv4(SOURCE, TARGET, 6, segment)
    return sighting_in(CapturedPacket("eth0", 0.0, packet, 101), packet)


@pytest.mark.parametrize(
    ("payload", "kind", "octets"),
    [
        (frame(bytes(4) + IKE), "IKE", IKE),
        (STREAM_PREFIX + frame(bytes(4) + IKE), "IKE", IKE),
        (frame(ESP), "ESP", ESP),
        (frame(b"\xff"), "keepalive", b"\xff"),
    ],
)
def test_message_that_fills_a_segment_is_found(payload, kind, octets):
    sighting = seen(payload)
    assert sighting is not None
    assert (sighting.kind, sighting.octets) == (kind, octets)
    assert sighting.packet[sighting.offset :] == octets
    assert sighting.carrier == "TCP 61000 > 4500"


@pytest.mark.parametrize("payload", [b"", STREAM_PREFIX, b"\0", frame(ESP)[:-1], frame(ESP) * 2])
def test_other_parts_of_a_stream_are_left_out(payload):
    assert seen(payload) is None


def test_other_ports_are_not_looked_at():
    assert seen(frame(ESP), port=443) is None
