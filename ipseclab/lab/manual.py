"""SAs keyed by hand, from a topology's `manual` to what each end installs.

RFC 4301 section 4.5.1. No IKE takes part: SPIs and keys are in the file, and nothing is ever
rekeyed. Keys are hexadecimal: the cipher's (with its salt), then the integrity algorithm's.
"""

from __future__ import annotations

from ipseclab.crypto.protection import Suite
from ipseclab.errors import NoProposalChosen
from ipseclab.ike.config import NAT_T_PORT, Mode
from ipseclab.ike.proposals import child_suite_of, parse_child_proposal
from ipseclab.ipsec.sad import SaParameters
from ipseclab.lab.model import Connection
from ipseclab.outputs import UdpEndpoint, UdpPath
from ipseclab.registry import EsnId, IpProtocol, ProtocolId, TransformType
from ipseclab.wire.selector import TrafficSelector


def manual_suite(text: str, protocol: ProtocolId) -> tuple[Suite, bool]:
    """The suite of a proposal with one algorithm of each type, and whether its sequence numbers are
    extended. Raises ValueError when it leaves a choice."""
    proposal = parse_child_proposal(text, protocol)
    kinds = [transform.type for transform in proposal.transforms]
    if len(set(kinds)) != len(kinds):
        raise ValueError(f"{text!r} leaves a choice, expected one algorithm of each type")
    try:
        suite = child_suite_of(proposal)
    except NoProposalChosen as problem:
        raise ValueError(str(problem)) from problem
    return suite, any(t.id == EsnId.ESN for t in proposal.of_type(TransformType.ESN))


def manual_sa(
    item: Connection,
    node: str,
    own_ts: tuple[TrafficSelector, ...],
    peer_ts: tuple[TrafficSelector, ...],
) -> SaParameters:
    """The pair of SAs as `node` has it; the topology's checks have passed."""
    assert item.manual is not None
    suite, esn = manual_suite(item.child[0], item.protocol)
    spis, keys, split = item.manual.spis, item.manual.keys, suite.encr_key_size
    out, back = (0, 1) if node == item.initiator else (1, 0)
    ends = item.initiator_address, item.responder_address
    path = None
    if item.force_encapsulation:
        local, remote = (UdpEndpoint(str(ends[index]), NAT_T_PORT) for index in (out, back))
        path = UdpPath(local, remote)
    return SaParameters(
        connection=item.name,
        policy=item.name,
        tunnel=item.mode is Mode.TUNNEL,
        spi_in=spis[back],
        spi_out=spis[out],
        local=ends[out].packed,
        remote=ends[back].packed,
        own_ts=own_ts,
        peer_ts=peer_ts,
        suite=suite,
        encr_key_in=keys[back][:split],
        integ_key_in=keys[back][split:],
        encr_key_out=keys[out][:split],
        integ_key_out=keys[out][split:],
        path=path,
        replay_window=item.replay_window,
        esn=esn,
        protocol=IpProtocol[item.protocol.name],
    )
