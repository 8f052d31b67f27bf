"""A run's capture as tshark reads it, given nothing but the run's own key tables.

The tables go into a configuration folder of their own, so that neither the user's Wireshark nor the
results are touched. What is in a frame by its ports and first octets is said by this file itself,
so that a frame which tshark takes for something else is missed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ipseclab.lab.keys import CAPTURE_NAME, KEYS_FOLDER
from ipseclab.lab.pcapng import read_pcapng
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import decode_ipv4_header, decode_udp

IKE_SA_INIT = "34"
FIELDS = (
    "frame.protocols",
    "isakmp.exchangetype",
    "isakmp.enc.decrypted",
    "isakmp.enc.icd",
    "esp.icv_good",
    "_ws.expert.severity",
    "_ws.expert.message",
    "_ws.malformed",
    "udp.dstport",
)
INNER = {"ip", "icmp", "tcp", "udp"}
"""What tshark finds in ESP once it is open, in tunnel or transport mode."""
NOTE = 0x400000
"""Expert information up to this severity is small talk (a SYN, a FIN)."""
PREFERENCES = (
    "esp.enable_encryption_decode:TRUE",
    "esp.enable_authentication_check:TRUE",
    # Both ends' interfaces are in one capture: each packet is there twice.
    "esp.do_esp_sequence_analysis:FALSE",
    "tcp.analyze_sequence_numbers:FALSE",
)


@dataclass(frozen=True)
class Frame:
    """One frame: what it is, and what tshark made of it."""

    kind: str
    protocols: tuple[str, ...]
    exchange: str
    opened: bool
    authentic: bool
    complaints: tuple[str, ...]
    ports: tuple[str, ...]


def dissected(folder: Path, config: Path) -> list[Frame]:
    """Every frame of the run's capture; `config` is made into a configuration folder."""
    shutil.copytree(folder / KEYS_FOLDER, config)
    command = ["tshark", "-n", "-r", str(folder / CAPTURE_NAME), "-T", "fields"]
    for preference in PREFERENCES:
        command += ["-o", preference]
    for field in FIELDS:
        command += ["-e", field]
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(config), "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    kinds = list(kinds_of(folder))
    lines = done.stdout.splitlines()
    assert len(lines) == len(kinds)
    return [_frame(kind, line) for kind, line in zip(kinds, lines, strict=True)]


def _frame(kind: str, line: str) -> Frame:
    protocols, exchange, decrypted, icd, good, severities, messages, malformed, ports = line.split(
        "\t"
    )
    inside = tuple(protocols.split(":"))
    if kind == "ike":
        opened, authentic = bool(decrypted), bool(icd)
    else:
        opened, authentic = bool(_after_esp(inside) & INNER), good == "1"
    worst = max((int(word, 0) for word in severities.split(",") if word), default=0)
    complaints = (messages,) if worst > NOTE or malformed else ()
    return Frame(kind, inside, exchange, opened, authentic, complaints, tuple(ports.split(",")))


def _after_esp(protocols: tuple[str, ...]) -> set[str]:
    return set(protocols[protocols.index("esp") + 1 :]) if "esp" in protocols else set()


def kinds_of(folder: Path) -> Iterator[str]:
    """What each frame of a capture is (RFC 3948 section 2): ike, esp, keepalive or plain."""
    with (folder / CAPTURE_NAME).open("rb") as stream:
        for captured in read_pcapng(stream):
            yield _kind(captured.packet)


def _kind(packet: bytes) -> str:
    header = decode_ipv4_header(packet)
    body = packet[header.header_length : header.total_length]
    if header.protocol == IpProtocol.ESP:
        return "esp"
    if header.protocol != IpProtocol.UDP:
        return "plain"
    source, destination, payload = decode_udp(body)
    if 4500 in (source, destination):
        if payload == b"\xff":
            return "keepalive"
        return "ike" if payload[:4] == bytes(4) else "esp"
    return "ike" if 500 in (source, destination) else "plain"


def count(frames: Iterable[Frame]) -> Counter[str]:
    """Frames by what they are."""
    return Counter(frame.kind for frame in frames)


def unread(frames: Iterable[Frame]) -> list[Frame]:
    """The frames that tshark did not decrypt, found not authentic, or complained about."""
    return [
        frame
        for frame in frames
        if frame.complaints
        or (frame.kind == "ike" and frame.exchange == "")
        or (
            (frame.kind == "esp" or (frame.kind == "ike" and frame.exchange != IKE_SA_INIT))
            and not (frame.opened and frame.authentic)
        )
    ]
