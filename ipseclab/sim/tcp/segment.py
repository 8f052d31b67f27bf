"""TCP segments: octets <-> values.

RFC 9293 section 3.1 (header, MSS), RFC 7323 (window scale, timestamps), RFC 2018 (SACK). Unknown
options are skipped, urgent data is left out.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ipseclab.errors import WireError
from ipseclab.registry import IanaEnum, IpProtocol
from ipseclab.wire.ip import pseudo_header_checksum, words_of

HEADER = struct.Struct("!HHIIBBHHH")
HEADER_SIZE = 20
MAX_OPTIONS_SIZE = 40

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10


class TcpOption(IanaEnum):
    """IANA "TCP Option Kind Numbers" that this codec knows."""

    END = 0
    NOP = 1
    MSS = 2
    WINDOW_SCALE = 3
    SACK_PERMITTED = 4
    SACK = 5
    TIMESTAMPS = 8


MAX_WINDOW_SCALE = 14
"""RFC 7323 section 2.3."""
TIMESTAMPS_SPACE = 12
"""Octets that a timestamps option takes from each segment, with its padding."""

_TIMESTAMPS_START = bytes((TcpOption.NOP, TcpOption.NOP, TcpOption.TIMESTAMPS, 10))
_STAMPED = HEADER_SIZE + TIMESTAMPS_SPACE
_STAMPS_AT = HEADER_SIZE + len(_TIMESTAMPS_START)
_SACK_BLOCK = struct.Struct("!II")
_STAMPED_HEADER = struct.Struct("!HHIIBBHHHIII")
_STAMPED_OFFSET = _STAMPED // 4 << 4
_STAMPS_OPTION = int.from_bytes(_TIMESTAMPS_START, "big")
_STAMPED_WORDS = (_STAMPED_OFFSET << 8) + _STAMPS_OPTION
"""What always stands in such a header."""
_TCP = int(IpProtocol.TCP)


class Segment(NamedTuple):
    """One segment. Sequence numbers are the 32-bit ones of the wire; `window` is not yet scaled."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgment: int
    flags: int
    window: int
    payload: bytes = b""
    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    sack: tuple[tuple[int, int], ...] = ()
    timestamps: tuple[int, int] | None = None
    """TSval and TSecr."""


_OPTIONS = slice(Segment._fields.index("mss"), Segment._fields.index("timestamps"))
_NO_OPTIONS: tuple[object, ...] = (None, None, False, ())


def encode_segment(segment: Segment, source: bytes, destination: bytes) -> bytes:
    """The octets of `segment` with the checksum over its pseudo header; addresses are 4 octets."""
    if segment.timestamps is not None and segment[_OPTIONS] == _NO_OPTIONS:
        return _encode_stamped(segment, segment.timestamps, source + destination)
    options = _encode_options(segment)
    head = HEADER.pack(
        segment.source_port,
        segment.destination_port,
        segment.sequence,
        segment.acknowledgment,
        (HEADER_SIZE + len(options)) // 4 << 4,
        segment.flags,
        segment.window,
        0,
        0,
    )
    octets = head + options + segment.payload
    value = pseudo_header_checksum(source, destination, _TCP, octets)
    return octets[:16] + value.to_bytes(2, "big") + octets[18:]


def _encode_stamped(segment: Segment, stamps: tuple[int, int], ends: bytes) -> bytes:
    """A segment with timestamps and no other option, as nearly all are. The words of its header are
    summed up before there are octets of it: 2^16 is 1 in that sum."""
    source_port, destination_port, sequence, acknowledgment, flags, window, payload, *_ = segment
    value, echo = stamps
    size = _STAMPED + len(payload)
    head = source_port + destination_port + sequence + acknowledgment + flags + window
    total = int.from_bytes(ends, "big") + _TCP + size + head + _STAMPED_WORDS + value + echo
    checksum = 0xFFFF - ((total + words_of(payload)) % 0xFFFF or 0xFFFF)
    return (
        _STAMPED_HEADER.pack(
            source_port,
            destination_port,
            sequence,
            acknowledgment,
            _STAMPED_OFFSET,
            flags,
            window,
            checksum,
            0,
            _STAMPS_OPTION,
            value,
            echo,
        )
        + payload
    )


def decode_segment(octets: bytes, source: bytes, destination: bytes) -> Segment:
    """The segment in `octets`. Raises WireError on a bad length, option or checksum.

     0                   1                   2                   3
    |          Source Port          |       Destination Port        |
    |                        Sequence Number                        |
    |                    Acknowledgment Number                      |
    | Offset| Rsrvd |     Flags     |            Window             |
    |           Checksum            |         Urgent Pointer        |
    |                    [Options]  and  [Data]                     |
    """
    if len(octets) < HEADER_SIZE:
        raise WireError(f"TCP header {len(octets)} octets, {HEADER_SIZE} needed")
    fields = HEADER.unpack_from(octets)
    source_port, destination_port, sequence, acknowledgment, offset, flags, window, _sum, _ = fields
    start = (offset >> 4) * 4
    if not HEADER_SIZE <= start <= len(octets):
        raise WireError(f"TCP data offset {start}, have {len(octets)} octets")
    # The checksum over a segment that already holds its own checksum is zero (RFC 1071).
    if pseudo_header_checksum(source, destination, _TCP, octets) != 0:
        raise WireError("TCP checksum does not match")
    head = source_port, destination_port, sequence, acknowledgment, flags, window
    # Linux and this encoder put nothing but timestamps on a data segment: read that shape at once.
    if start == _STAMPED and octets.startswith(_TIMESTAMPS_START, HEADER_SIZE):
        stamps = _SACK_BLOCK.unpack_from(octets, _STAMPS_AT)
        return Segment(*head, octets[start:], None, None, False, (), stamps)
    segment = Segment(*head, octets[start:])
    return _with_options(segment, octets[HEADER_SIZE:start]) if start > HEADER_SIZE else segment


def _encode_options(segment: Segment) -> bytes:
    options = b""
    if segment.mss is not None:
        options += struct.pack("!BBH", TcpOption.MSS, 4, segment.mss)
    if segment.sack_permitted:
        options += bytes((TcpOption.NOP, TcpOption.NOP, TcpOption.SACK_PERMITTED, 2))
    options += _encode_timestamps(segment)
    if segment.window_scale is not None:
        options += bytes((TcpOption.NOP, TcpOption.WINDOW_SCALE, 3, segment.window_scale))
    if segment.sack:
        blocks = segment.sack[: (MAX_OPTIONS_SIZE - len(options) - 4) // _SACK_BLOCK.size]
        size = 2 + _SACK_BLOCK.size * len(blocks)
        options += bytes((TcpOption.NOP, TcpOption.NOP, TcpOption.SACK, size))
        options += b"".join(_SACK_BLOCK.pack(*block) for block in blocks)
    return options


def _encode_timestamps(segment: Segment) -> bytes:
    if segment.timestamps is None:
        return b""
    return _TIMESTAMPS_START + _SACK_BLOCK.pack(*segment.timestamps)


def _with_options(segment: Segment, options: bytes) -> Segment:
    at = 0
    while at < len(options) and options[at] != TcpOption.END:
        if options[at] == TcpOption.NOP:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            raise WireError(f"TCP option {options[at]} of {size} octets, {len(options) - at} left")
        segment = _with_option(segment, options[at], options[at + 2 : at + size])
        at += size
    return segment


def _with_option(segment: Segment, kind: int, body: bytes) -> Segment:
    match kind, len(body):
        case (TcpOption.MSS, 2):
            return segment._replace(mss=int.from_bytes(body, "big"))
        case (TcpOption.WINDOW_SCALE, 1):
            return segment._replace(window_scale=min(body[0], MAX_WINDOW_SCALE))
        case (TcpOption.SACK_PERMITTED, 0):
            return segment._replace(sack_permitted=True)
        case (TcpOption.SACK, 8 | 16 | 24 | 32):
            blocks = _SACK_BLOCK.iter_unpack(body)
            return segment._replace(sack=tuple((start, end) for start, end in blocks))
        case (TcpOption.TIMESTAMPS, 8):
            value, echo = _SACK_BLOCK.unpack(body)
            return segment._replace(timestamps=(value, echo))
    return segment
