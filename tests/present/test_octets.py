"""The figure of one packet at both ends: which fields the ICV covers, and which a NAT changed."""

import pytest

from ipseclab.lab.pcapng import PcapngWriter
from ipseclab.present.matrix import STRIKING
from ipseclab.present.octets import Cover, field_rows, seen_twice

SOURCE, NEW, DESTINATION = bytes([203, 0, 113, 2]), bytes([192, 0, 2, 1]), bytes([198, 51, 100, 3])
AH = b"\x04\x05\0\0" + b"\x11\x22\x33\x44" + b"\0\0\0\x01" + bytes(range(16))
ESP = b"\x11\x22\x33\x44" + b"\0\0\0\x01" + bytes(32)
UDP = b"\x11\x94\x11\x94\0\x30\0\0"


def ipv4(protocol, body, source=SOURCE, ttl=64):
    length = (20 + len(body)).to_bytes(2, "big")
    return (
        b"\x45\0"
        + length
        + b"\0\x01\x40\0"
        + bytes([ttl, protocol, 0, 0])
        + source
        + (DESTINATION + body)
    )


def rows_of(protocol, body):
    left, arrived = ipv4(protocol, body), ipv4(protocol, body, NEW, ttl=62)
    return {(row.header, row.name): row for row in field_rows(left, arrived)}


def test_ah_covers_what_no_router_changes():
    rows = rows_of(51, AH + b"inside")
    zeros = {name for (header, name), row in rows.items() if row.cover is Cover.AS_ZEROS}
    assert zeros == {
        "DSCP, ECN",
        "Flags, Fragment Offset",
        "Time to Live",
        "Header Checksum",
        "ICV",
    }
    assert not any(row.cover is Cover.NOT_COVERED for row in rows.values())
    striking = [name for (_, name), row in rows.items() if row.colour == STRIKING]
    assert striking == ["Source Address"]


@pytest.mark.parametrize(("protocol", "body"), [(50, ESP), (17, UDP + ESP)])
def test_esp_covers_nothing_before_itself(protocol, body):
    rows = rows_of(protocol, body)
    covered = {header for (header, _), row in rows.items() if row.cover is Cover.COVERED}
    assert covered == {"ESP"}
    assert [row.name for row in rows.values() if row.changed] == ["Time to Live", "Source Address"]
    assert not any(row.colour == STRIKING for row in rows.values())


def test_every_octet_is_in_one_field():
    for protocol, body in ((51, AH + b"inside"), (50, ESP), (17, UDP + ESP)):
        packet = ipv4(protocol, body)
        assert b"".join(row.left for row in field_rows(packet, packet)) == packet


def test_the_first_packet_that_was_seen_at_both_ends(tmp_path):
    ike = ipv4(17, UDP + bytes(4) + ESP)
    lost = ipv4(51, AH.replace(b"\0\0\0\x01", b"\0\0\0\x09"))
    left, arrived = ipv4(51, AH), ipv4(51, AH, NEW)
    path = tmp_path / "capture.pcapng"
    with path.open("wb") as sink:
        writer = PcapngWriter(sink, ["gw1-eth0"])
        for moment, packet in enumerate((ike, ike, lost, left, arrived)):
            writer.write(0, float(moment), packet)
    assert seen_twice(path) == (left, arrived)
    with path.open("wb") as sink:
        PcapngWriter(sink, ["gw1-eth0"]).write(0, 0.0, left)
    assert seen_twice(path) is None
