"""What a topology file says of nodes and links."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from ipseclab.ike.config import IkeLimits
from ipseclab.lab.firewall import Blocked, parse_rules
from ipseclab.lab.impairment import (
    DEFAULT_MTU,
    DEFAULT_QUEUE_PACKETS,
    DEFAULT_REORDER_DELAY,
    Bernoulli,
    GilbertElliott,
    LossModel,
    NthPackets,
)
from ipseclab.lab.schema_spd import SpdFile
from ipseclab.lab.schema_types import (
    LARGEST_MTU,
    SMALLEST_MTU,
    Address,
    InterfaceAddress,
    Name,
    NodeName,
    Octets,
    Probability,
    Rate,
    Seconds,
    Strict,
)
from ipseclab.lab.units import Quantity, parse_quantity


class LossFile(Strict):
    """Loss: exactly one of `probability`, `p` and `r` (Gilbert-Elliott), `packets` / `every`."""

    probability: Probability | None = None
    """Each packet by itself."""
    p: Probability | None = None
    """Gilbert-Elliott: good to bad, a packet."""
    r: Probability | None = None
    """Gilbert-Elliott: bad to good, a packet."""
    h: Probability = 0.0
    """Gilbert-Elliott: the chance to get through in the bad state."""
    k: Probability = 1.0
    """Gilbert-Elliott: the chance to get through in the good state."""
    packets: list[Annotated[int, Field(ge=0)]] = []
    """Exactly these packets, counted from 0."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Every n-th packet."""

    @model_validator(mode="after")
    def _one_model(self) -> LossFile:
        chosen = [
            self.probability is not None,
            self.p is not None or self.r is not None,
            bool(self.packets) or self.every is not None,
        ]
        if sum(chosen) != 1:
            raise ValueError("not one loss model, expected probability, or p and r, or packets")
        if (self.p is None) != (self.r is None):
            raise ValueError("half a Gilbert-Elliott model, expected both p and r")
        return self

    def model(self) -> LossModel:
        """The loss model that it describes."""
        if self.probability is not None:
            return Bernoulli(self.probability)
        if self.p is not None and self.r is not None:
            return GilbertElliott(self.p, self.r, self.h, self.k)
        return NthPackets(tuple(self.packets), self.every)


def _loss(value: object) -> object:
    if value is None or isinstance(value, dict | LossFile):
        return value
    return {"probability": parse_quantity(value, Quantity.PROBABILITY)}


Loss = Annotated[LossFile, BeforeValidator(_loss)]


Blocks = Annotated[
    tuple[Blocked, ...],
    PlainValidator(parse_rules),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class ImpairmentFile(Strict):
    """What a link, or one direction of it, does to packets."""

    delay: Seconds = 0.0
    jitter: Seconds = 0.0
    jitter_distribution: Literal["uniform", "normal"] = "uniform"
    loss: Loss | None = None
    reorder: Probability = 0.0
    """The share of packets held back so that later ones overtake them."""
    reorder_delay: Seconds = DEFAULT_REORDER_DELAY
    duplicate: Probability = 0.0
    corrupt: Probability = 0.0
    """The share of packets with one bit of their payload turned over."""
    rate: Rate | None = None
    queue_packets: Annotated[int, Field(ge=0)] = DEFAULT_QUEUE_PACKETS
    queue_octets: Octets | None = None
    mtu: Annotated[int, Field(ge=SMALLEST_MTU, le=LARGEST_MTU)] = DEFAULT_MTU
    block: Blocks = ()
    """What does not pass: a protocol, of tcp and udp perhaps some ports (udp/4500, tcp/1-1023)."""


class LinkFile(ImpairmentFile):
    """A link between two nodes, each end with an address; the impairments hold for both directions,
    `forward` (first end to second) and `backward` say what is different there."""

    name: Name | None = None
    """By default the two ends: gw1-gw2."""
    ends: Annotated[list[NodeName], Field(min_length=2, max_length=2)]
    addresses: Annotated[list[InterfaceAddress], Field(min_length=2, max_length=2)]
    hidden_mtu: bool = False
    """Whether gateways are set up without knowledge of its MTU, and have to find out."""
    forward: ImpairmentFile | None = None
    backward: ImpairmentFile | None = None

    @property
    def link_name(self) -> str:
        """Its name, or the two ends."""
        return self.name if self.name is not None else "-".join(self.ends)


class LimitsFile(Strict):
    """What a node's stack takes on from initiators that it does not know yet."""

    half_open: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    cookie_threshold: Annotated[int, Field(ge=0)] = 32
    puzzle_threshold: Annotated[int, Field(ge=0)] | None = None
    """None: no puzzles."""
    auth_puzzle_threshold: Annotated[int, Field(ge=0)] | None = None
    """None: none for IKE_AUTH."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        puzzles, later = self.puzzle_threshold, self.auth_puzzle_threshold
        if later is not None and later >= self.half_open:
            raise ValueError(
                f"auth_puzzle_threshold: {later}, expected it below half_open ({self.half_open})"
            )
        if puzzles is not None and not self.cookie_threshold <= puzzles < self.half_open:
            raise ValueError(
                f"puzzle_threshold: {puzzles}, expected it from cookie_threshold "
                f"({self.cookie_threshold}) on and below half_open ({self.half_open})"
            )
        return self

    def limits(self) -> IkeLimits:
        """What the stack is told."""
        return IkeLimits(
            half_open=self.half_open,
            cookie_threshold=self.cookie_threshold,
            puzzle_threshold=self.puzzle_threshold,
            auth_puzzle_threshold=self.auth_puzzle_threshold,
        )


class _LimitedFile(Strict):
    """A node that may have a stack."""

    limits: LimitsFile | None = None
    fast_path: bool | None = None
    """Whether packets may go in trains (world netns), by default yes."""
    spd: SpdFile | None = None

    @model_validator(mode="after")
    def _ours(self) -> Self:
        stack = getattr(self, "stack", None)
        for key in ("limits", "fast_path", "spd"):
            if getattr(self, key) is not None and stack not in (None, "ipseclab"):
                raise ValueError(f"{key}: of a node with stack {stack}, expected ipseclab")
        return self


class HostFile(_LimitedFile):
    """A host: sends and receives traffic; with a `stack` it can be an end of a connection."""

    kind: Literal["host"]
    stack: Literal["ipseclab", "strongswan", "none"] | None = None
    """By default ipseclab where a connection ends here, else none."""


class GatewayFile(_LimitedFile):
    """A security gateway between a protected and an unprotected side."""

    kind: Literal["gateway"]
    stack: Literal["ipseclab", "strongswan", "none"] = "ipseclab"


class RouterFile(Strict):
    """A plain IPv4 router."""

    kind: Literal["router"]


class AttackerFile(Strict):
    """A router that does what the file's `attacks` say."""

    kind: Literal["attacker"]


NatBehaviour = Literal["endpoint-independent", "address-dependent", "address-and-port-dependent"]


class NatFile(Strict):
    """An IPv4 NAT (RFC 4787); `outside` names the link on its public side."""

    kind: Literal["nat"]
    outside: Name
    mapping: NatBehaviour = "endpoint-independent"
    filtering: NatBehaviour = "address-and-port-dependent"
    port_preservation: bool = True
    hairpinning: bool = True
    udp_timeout: Seconds = 120.0
    """RFC 4787 REQ-5: not less than 2 minutes; real ones are often shorter."""
    inbound_refresh: bool = False
    """RFC 4787 REQ-6: whether packets from outside also keep a mapping alive."""
    tcp_timeout: Seconds = 7440.0
    tcp_transitory_timeout: Seconds = 240.0
    icmp_timeout: Seconds = 60.0
    ports: Annotated[
        list[Annotated[int, Field(ge=1, le=65535)]], Field(min_length=2, max_length=2)
    ] = [1024, 65535]
    """First and last outside port."""
    mappings: Annotated[int, Field(ge=1)] = 4096
    """Room in the table."""
    pool: list[Address] = []
    """Further outside addresses, for a rebinding to another address."""
    esp_passthrough: bool = False
    ah_passthrough: bool = False


NodeFile = Annotated[
    HostFile | GatewayFile | RouterFile | NatFile | AttackerFile, Field(discriminator="kind")
]
