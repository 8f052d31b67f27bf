"""A TCP without I/O whose segments are the real octets: `Connection` is the whole of it.

`segment` codec, `ranges` sets of octets, `timing` RTT and RTO, `congestion` NewReno and CUBIC,
`sender` and `receiver` the two halves, `connection` the handshake and the joining of both.
"""

from ipseclab.sim.tcp.connection import Connection, TcpConfig, TcpState
from ipseclab.sim.tcp.segment import Segment, decode_segment, encode_segment
from ipseclab.sim.tcp.stream import OctetStream, PatternStream, QueueStream, Stream

__all__ = [
    "Connection",
    "OctetStream",
    "PatternStream",
    "QueueStream",
    "Segment",
    "Stream",
    "TcpConfig",
    "TcpState",
    "decode_segment",
    "encode_segment",
]
