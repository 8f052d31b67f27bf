"""`ipseclab decode`: a capture as a ladder, IKE payload by payload, ESP opened with known keys.

What counts as IKE and as ESP is said in `present.sighting`. A packet that was captured at several
interfaces is told once; after that a line says where it came by, and how a NAT had changed its
addresses: the NAT_DETECTION hashes are then held against the new ones.
"""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ipseclab.errors import WireError
from ipseclab.ipsec.ah import FIXED_SIZE as AH_FIXED_SIZE
from ipseclab.lab.keys_read import Secrets, find_keys, read_secrets
from ipseclab.lab.pcap_read import ip_packet, read_capture
from ipseclab.lab.pcapng import CapturedPacket
from ipseclab.present.describe import Context, describe_packet, describe_payload
from ipseclab.present.opener import ESP_HEADER_SIZE, Closed, OpenedFragment, Opener
from ipseclab.present.sighting import Sighting, sighting_in
from ipseclab.registry import IpProtocol, NotifyType
from ipseclab.wire.ipv6 import decode_ip_header
from ipseclab.wire.message import IkeHeader, Message, decode_header, decode_message
from ipseclab.wire.payloads import NotifyPayload, SkfPayload, SkPayload

LEAST_WIDTH = 72
MOST_WIDTH = 110
TIME_WIDTH = 12
DIGEST_SIZE = 16
NAT_DETECTION = (NotifyType.NAT_DETECTION_SOURCE_IP, NotifyType.NAT_DETECTION_DESTINATION_IP)

STYLES = {"IKE": "bold cyan", "ESP": "green", "AH": "blue", "keepalive": "dim", "closed": "yellow"}


def decode_capture(
    path: Path, keys: Path | None, console: Console, *, only_ike: bool = False
) -> None:
    """Print what a capture holds; `keys` is a keys file or folder, None to look beside the capture.
    With `only_ike` ESP and AH are counted and not shown.

    Raises ConfigError: when the keys are bad before anything is printed, when the capture ends
    inside a packet after all that could be read.
    """
    found = keys if keys is not None else find_keys(path)
    secrets = read_secrets(found) if found is not None else None
    printer = CapturePrinter(secrets, console, only_ike=only_ike)
    for captured in read_capture(path):
        printer.add(captured)
    printer.end()


class CapturePrinter:
    """Prints one captured packet after the other, and knows which have been there before."""

    def __init__(
        self, secrets: Secrets | None, console: Console, *, only_ike: bool = False
    ) -> None:
        self._console = console
        self._hidden = ("ESP", "AH") if only_ike else ()
        self._width = min(max(console.width, LEAST_WIDTH), MOST_WIDTH) - TIME_WIDTH
        self._opener = Opener(secrets)
        self._origin: float | None = None
        self._left: dict[frozenset[str], str] = {}
        self._pair: frozenset[str] | None = None
        self._seen: dict[bytes, Sighting] = {}
        self._counts: Counter[str] = Counter()
        none = "none (give --keys, or put X.keys.json or keys/ beside the capture)"
        self._title = f"keys: {secrets if secrets is not None else none}"

    def add(self, captured: CapturedPacket) -> None:
        """Print a frame, or count it when it is neither IKE nor ESP nor AH."""
        if self._origin is None:
            self._origin = captured.time
            self._print(self._title)
        sighting = self._classify(captured)
        if sighting is None:
            return
        self._counts[sighting.kind] += 1
        if sighting.kind in self._hidden:
            return
        if self._is_new(sighting):
            self._print_ends(sighting)
            match sighting.kind:
                case "IKE":
                    self._print_ike(sighting)
                case "ESP":
                    self._print_esp(sighting)
                case "AH":
                    self._print_ah(sighting)
                case _:
                    self._print_arrow(sighting, "NAT keepalive")

    def end(self) -> None:
        """Print what was counted."""
        counts = self._counts
        ah = f"{counts['AH']} AH packets, " if counts["AH"] else ""
        esp = "not shown" if self._hidden else f"{counts['esp opened']} opened"
        self._print("")
        self._print(
            f"{counts['IKE']} IKE messages ({counts['sealed']} sealed, {counts['opened']} opened), "
            f"{counts['ESP']} ESP packets ({esp}), "
            f"{ah}{counts['keepalive']} keepalives; {counts['again']} of these were repeated, "
            f"{counts['other']} other frames left out"
        )
        if counts["fragment"]:
            self._print(f"{counts['fragment']} IP fragments, which are not put together here")

    def _classify(self, captured: CapturedPacket) -> Sighting | None:
        packet = ip_packet(captured)
        found: Sighting | None = None
        if packet is not None:
            try:
                found = self._find(captured, packet)
            except WireError:
                found = None
        self._counts["other"] += found is None
        return found

    def _find(self, captured: CapturedPacket, packet: bytes) -> Sighting | None:
        """The sighting in an IP packet. Raises WireError when it does not decode."""
        self._counts["fragment"] += decode_ip_header(packet).is_fragment
        return sighting_in(captured, packet)

    def _is_new(self, sighting: Sighting) -> bool:
        """False, with a line that says so, for octets that were there before. Keepalives are all
        alike and always new."""
        if sighting.kind == "keepalive":
            return True
        digest = blake2b(sighting.octets, digest_size=DIGEST_SIZE).digest()
        before = self._seen.get(digest)
        if before is None:
            self._seen[digest] = sighting
            return True
        self._counts["again"] += 1
        ends = f"{sighting.source.address} > {sighting.destination.address}, {sighting.carrier}"
        if before.interface != sighting.interface:
            what = f"the same {sighting.kind} at {sighting.interface}: {ends}"
        else:
            what = f"the same {sighting.kind} again: {ends}"
        self._print(f"{self._clock(sighting)}{what}", "dim")
        if sighting.kind == "IKE" and sighting.ends != before.ends:
            self._print_nat_detection(sighting)
        return False

    def _print_ends(self, sighting: Sighting) -> None:
        """The two ends above the ladder, when they are others than before."""
        addresses = sighting.source.address, sighting.destination.address
        pair = frozenset(addresses)
        if pair == self._pair:
            return
        self._pair = pair
        left = self._left.setdefault(pair, addresses[0])
        right = addresses[1] if addresses[0] == left else addresses[0]
        gap = max(self._width - len(left) - len(right), 1)
        self._print("")
        self._print(f"{'':{TIME_WIDTH}}{left}{'':{gap}}{right}", "bold")

    def _print_arrow(self, sighting: Sighting, label: str) -> None:
        line = f"-- {label} "
        room = self._width - 3
        if sighting.source.address == self._left[frozenset(self._addresses(sighting))]:
            arrow = f"|{line:-<{room}}>|"
        else:
            arrow = f"|<{f' {label} --':->{room}}|"
        self._print(f"{self._clock(sighting)}{arrow}", STYLES[sighting.kind])

    def _print_ike(self, sighting: Sighting) -> None:
        octets = sighting.octets
        try:
            header = decode_header(octets)
            message = decode_message(octets)
        except WireError as error:
            self._print_arrow(sighting, f"IKE, {len(octets)} octets")
            self._detail(f"does not decode: {error}", STYLES["closed"])
            return
        way = "response" if message.response else "request"
        self._print_arrow(sighting, f"{message.exchange.name} {way} {message.message_id}")
        self._detail(_header_text(header, sighting))
        context = Context(message, sighting.source, sighting.destination)
        for payload in message.payloads:
            for line in describe_payload(payload, context):
                self._detail(line)
            if isinstance(payload, SkPayload | SkfPayload):
                self._print_sealed(octets, message, context)

    def _print_nat_detection(self, sighting: Sighting) -> None:
        """What a message's NAT_DETECTION hashes say at the addresses that a NAT gave it."""
        try:
            message = decode_message(sighting.octets)
        except WireError:
            return
        context = Context(message, sighting.source, sighting.destination)
        for payload in message.payloads:
            if isinstance(payload, NotifyPayload) and payload.notify_type in NAT_DETECTION:
                for line in describe_payload(payload, context):
                    self._detail(line)

    def _print_sealed(self, octets: bytes, message: Message, context: Context) -> None:
        self._counts["sealed"] += 1
        inside = self._opener.open_message(octets, message)
        if isinstance(inside, Closed):
            self._detail(f"  ciphertext: {inside.reason}", STYLES["closed"])
            return
        self._counts["opened"] += 1
        if isinstance(inside, OpenedFragment):
            self._detail(f"  {inside.size} octets verified, {inside.missing} fragments missing")
            return
        if not inside:
            self._detail("  nothing inside")
        for payload in inside:
            for line in describe_payload(payload, context):
                self._detail(f"  {line}")

    def _print_esp(self, sighting: Sighting) -> None:
        esp = sighting.octets
        if len(esp) < ESP_HEADER_SIZE:
            self._print_arrow(sighting, f"ESP cut short, {len(esp)} octets")
            return
        sequence = int.from_bytes(esp[4:8], "big")
        self._print_arrow(sighting, f"ESP SPI {esp[:4].hex()} sequence {sequence}")
        opened = self._opener.open_esp(esp)
        outer = f"{sighting.carrier}, {len(esp)} octets"
        if isinstance(opened, Closed):
            self._detail(f"{outer}; ciphertext: {opened.reason}", STYLES["closed"])
            return
        self._counts["esp opened"] += 1
        name = IpProtocol(opened.next_header).name
        self._detail(f"{outer}; next header {name}, padding {opened.padding}")
        inner = describe_packet(opened.next_header, opened.payload)
        self._detail(f"{inner}, {len(opened.payload)} octets")

    def _print_ah(self, sighting: Sighting) -> None:
        """RFC 4302 section 2: all in clear; the ICV's keys are in no table."""
        octets = sighting.octets
        size = (octets[1] + 2) * 4 if len(octets) >= AH_FIXED_SIZE else 0
        if not AH_FIXED_SIZE <= size <= len(octets):
            self._print_arrow(sighting, f"AH cut short, {len(octets)} octets")
            return
        sequence = int.from_bytes(octets[8:AH_FIXED_SIZE], "big")
        self._print_arrow(sighting, f"AH SPI {octets[4:8].hex()} sequence {sequence}")
        name = IpProtocol(octets[0]).name
        icv = f"ICV {size - AH_FIXED_SIZE} octets, not verified"
        self._detail(f"{sighting.carrier}, {len(octets)} octets; next header {name}, {icv}")
        payload = octets[size:]
        self._detail(f"{describe_packet(octets[0], payload)}, {len(payload)} octets")

    def _addresses(self, sighting: Sighting) -> tuple[str, str]:
        return sighting.source.address, sighting.destination.address

    def _clock(self, sighting: Sighting) -> str:
        origin = self._origin if self._origin is not None else sighting.time
        return f"{sighting.time - origin:>{TIME_WIDTH - 2}.6f}  "

    def _detail(self, line: str, style: str = "") -> None:
        self._print(f"{'':{TIME_WIDTH}}|    {line}", style)

    def _print(self, line: str, style: str = "") -> None:
        # Names in a capture are anyone's: no control character of theirs reaches the terminal.
        shown = "".join(letter if letter.isprintable() else "?" for letter in line)
        self._console.print(Text(shown, style=style), soft_wrap=True)


def _header_text(header: IkeHeader, sighting: Sighting) -> str:
    flags = [
        name
        for name, is_set in (
            ("initiator", header.initiator),
            ("response", header.response),
            ("version", header.version),
        )
        if is_set
    ]
    version = "" if (header.major, header.minor) == (2, 0) else f" {header.major}.{header.minor}"
    return (
        f"HDR{version}   SPIi {header.spi_i.hex()} SPIr {header.spi_r.hex()}, "
        f"flags {' '.join(flags) or 'none'}; {sighting.carrier}, {header.length} octets"
    )
