"""Wireshark's dissector reads what we encode: every payload, and nothing malformed."""

import shutil
import subprocess

import pytest
from sample_payloads import PAYLOADS

from ipseclab.lab.pcapng import PcapngWriter
from ipseclab.registry import (
    ExchangeType,
    KeMethod,
    NotifyType,
)
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.message import Message

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

EXPECTED = {
    "isakmp.messageid": "0x00000007",
    "isakmp.exchangetype": str(int(ExchangeType.IKE_AUTH)),
    # Wireshark counts a proposal (2) and its transforms (3) as payloads too.
    "isakmp.typepayload": "33,2,3,3,34,40,35,36,39,41,42,43,44,45,47,48,200,53",
    "isakmp.criticalpayload": ",".join("1" if payload.critical else "0" for payload in PAYLOADS),
    "isakmp.spi": "c0ffee01,c0ffee02",
    "isakmp.key_exchange.dh_group": str(int(KeMethod.CURVE25519)),
    "isakmp.ike2.attr.key_length": "256",
    "isakmp.notify.msgtype": str(int(NotifyType.REKEY_SA)),
    "isakmp.delete.spi": b"spi1".hex() + "," + b"spi2".hex(),
    "isakmp.ts.start_ipv4": "10.1.0.0,10.2.0.1",
    "isakmp.ts.end_ipv4": "10.1.0.255,10.2.0.1",
    "isakmp.ts.start_port": "0,0,53",
    "isakmp.ts.end_port": "65535,65535,60",
    "isakmp.frag.number": "1",
    "isakmp.frag.total": "2",
    "_ws.malformed": "",
}


def test_wireshark_reads_every_payload_as_we_mean_it(tmp_path):
    message = Message(b"I" * 8, b"R" * 8, ExchangeType.IKE_AUTH, True, False, 7, PAYLOADS)
    octets = message.encode()
    ends = b"\xc0\0\2\1", b"\xc0\0\2\2"
    path = tmp_path / "message.pcapng"
    with path.open("wb") as stream:
        datagram = build_udp(ends[0], 500, ends[1], 500, octets)
        PcapngWriter(stream, ["eth0"]).write(0, 0.0, build_ipv4(*ends, 17, datagram))
    fields = [field for name in EXPECTED for field in ("-e", name)]
    command = ["tshark", "-r", str(path), "-T", "fields", "-E", "separator=|", *fields]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert dict(zip(EXPECTED, done.stdout.rstrip("\n").split("|"), strict=True)) == EXPECTED
