"""What the besieged gateways of `siege.py` speak with each other: kits, each a set of IKEv2's
extensions at both ends, so that together an attack meets every exchange and payload that there is.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.protection import Suite
from ipseclab.gateway import GatewayConfig
from ipseclab.ike.config import (
    ANY_IDENTITY,
    Childless,
    ConnectionConfig,
    Identity,
    IkeConfig,
    IkeLimits,
    Ppk,
    PpkUse,
    SharedKeyAuth,
)
from ipseclab.ike.configuration import AddressPool, AddressRequest, Provision
from ipseclab.ike.credentials import LAB_EPOCH, CertificateAuth, CertificateDemand
from ipseclab.ike.eap.settings import EapAuth, EapDemand, EapTls
from ipseclab.ike.mobike.settings import Mobike
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.ipsec.spd import Action, Policy
from ipseclab.lab.pki import Issued, Subject, Validity, issue, make_authority, make_key
from ipseclab.registry import EapType, EncrId, IdType
from ipseclab.wire.selector import TrafficSelector

CONNECTION = "attacked"
ADDRESSES = ("192.0.2.1", "198.51.100.1")
ELSEWHERE = "203.0.113.7"
"""Where an initiator with MOBIKE moves to and comes back from."""
NETWORKS = ("10.1.0.0/24", "10.2.0.0/24")
SUITE = Suite(CIPHERS[EncrId.ENCR_AES_GCM_16, 128])
LIMITS = IkeLimits(half_open=64, cookie_threshold=16, half_open_timeout=30.0, ike_sas=256)
NAMES = tuple(
    Identity(IdType.ID_FQDN, name) for name in (b"initiator.example.org", b"responder.example.org")
)
IKE, ESP = "aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"
ACCOUNTS = ((str(NAMES[0]), "wonderland"),)
ANYWHERE = (TrafficSelector.of_network("0.0.0.0/0"),)
YEAR = Validity.of_days(LAB_EPOCH, 365)
SECRET = bytes(32)
"""Of both endpoints: tickets and crash tokens are made from it, and outlive a restart."""

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Kit:
    """Settings of connections, by their names in `ConnectionConfig`."""

    name: str
    both: Settings = field(default_factory=dict)
    initiator: Settings = field(default_factory=dict)
    responder: Settings = field(default_factory=dict)
    limits: IkeLimits = LIMITS
    share: float = 1.0
    """How often it is drawn, beside the others."""

    @property
    def moves(self) -> bool:
        """True when the initiator may change its address (RFC 4555)."""
        return "mobike" in self.both

    @property
    def resumes(self) -> bool:
        """True when the initiator comes back with a ticket (RFC 5723)."""
        return "resumption" in self.both

    def gateway(self, side: int) -> GatewayConfig:
        """The initiator (0) or the responder (1)."""
        selectors = tuple(TrafficSelector.of_network(network) for network in NETWORKS)
        connection = ConnectionConfig(
            name=CONNECTION,
            own_address=ADDRESSES[side],
            # The responder takes anyone, so that strangers reach deep into it.
            peer_address=ADDRESSES[1] if side == 0 else None,
            own_id=NAMES[side],
            peer_id=NAMES[1 - side],
            psk=b"known to both ends alone",
            ike_proposals=(parse_ike_proposal(IKE),),
            esp_proposals=(parse_esp_proposal(ESP),),
            own_ts=(selectors[side],),
            peer_ts=(selectors[1 - side],),
            force_encapsulation=True,
            keepalive=None,
        )
        own = self.responder if side else self.initiator
        connection = replace(connection, **{**self.both, **own})  # type: ignore[arg-type]
        policy = Policy(
            name=CONNECTION,
            action=Action.PROTECT,
            local=connection.own_ts,
            remote=connection.peer_ts,
            connection=CONNECTION,
        )
        ike = IkeConfig(f"gw{side + 1}", (connection,), self.limits, secret=SECRET)
        return GatewayConfig(ike, (policy,))


PLAIN = Kit("plain")
"""Pre-shared keys and nothing that RFC 7296 does not have."""


@cache
def kits() -> tuple[Kit, ...]:
    """All of them; made once, as certificates are dear."""
    return (
        PLAIN,
        _traveller(),
        _certificates(),
        _eap_tls(),
        _several_keys("several-keys", "ke1_x448"),
        # ML-KEM-512 is plain Python here: dear, and the same exchanges.
        replace(_several_keys("post-quantum", "ke1_mlkem512"), share=0.1),
        _puzzled(),
    )


def draw(rng: random.Random) -> Kit:
    """One of them."""
    return rng.choices(kits(), [kit.share for kit in kits()])[0]


def _traveller() -> Kit:
    """A road warrior: EAP with a password, an address of the gateway's network, MOBIKE, tickets,
    crash detection."""
    gate = SharedKeyAuth(b"of the gate")
    methods = (EapType.MSCHAPV2, EapType.MD5_CHALLENGE)
    pool = AddressPool.of_network(NETWORKS[0])
    return Kit(
        "traveller",
        both={"resumption": 3600.0, "crash_detection": True, "mobike": Mobike()},
        initiator={
            "own_auth": (EapAuth(methods, "wonderland"),),
            "peer_auth": (gate,),
            "own_ts": ANYWHERE,
            "address_request": AddressRequest(),
        },
        responder={
            "own_auth": (gate,),
            "peer_auth": (EapDemand(methods, ACCOUNTS, ask_identity=True),),
            "peer_id": ANY_IDENTITY,
            "provision": Provision(
                (pool,), dns=("10.2.0.53",), domains=("example.org",), subnets=(NETWORKS[1],)
            ),
        },
    )


def _certificates() -> Kit:
    """Chains of certificates in fragments, three CHILD_SAs at a time, requests beside each
    other."""
    ends, demand = _issued()
    return Kit(
        "certificates",
        both={"peer_auth": (demand,), "window": 4, "resources": 3, "fragment_size": 576},
        initiator={"own_auth": (CertificateAuth(ends[0].private, ends[0].chain),)},
        responder={"own_auth": (CertificateAuth(ends[1].private, ends[1].chain),)},
    )


def _eap_tls() -> Kit:
    """EAP-TLS in small pieces, and a pre-shared key in a second round (RFC 4739)."""
    ends, demand = _issued()
    tls = [EapTls(CertificateAuth(end.private, end.chain), demand, fragment=256) for end in ends]
    key = SharedKeyAuth(b"of the second round")
    methods = (EapType.TLS,)
    return Kit(
        "eap-tls",
        initiator={"own_auth": (EapAuth(methods, tls=tls[0]), key), "peer_auth": (key,)},
        responder={"own_auth": (key,), "peer_auth": (EapDemand(methods, tls=tls[1]), key)},
    )


def _several_keys(name: str, added: str) -> Kit:
    """A second key exchange in IKE_INTERMEDIATE and IKE_FOLLOWUP_KE, a PPK, and an IKE_SA begun
    without a CHILD_SA."""
    return Kit(
        name,
        both={
            "ike_proposals": (parse_ike_proposal(f"{IKE}-{added}"),),
            "esp_proposals": (parse_esp_proposal(f"{ESP}-ke1_ecp256"),),
            "ppks": (Ppk(b"blue", b"sixteen octets.. and more"),),
            "ppk_use": PpkUse.INTERMEDIATE,
            "ppk_rekeys": True,
        },
        initiator={"childless": Childless.PREFER},
    )


def _puzzled() -> Kit:
    """A gateway that always demands a COOKIE and solved puzzles (RFC 8019)."""
    always = replace(LIMITS, cookie_threshold=0, puzzle_threshold=0, auth_puzzle_threshold=0)
    return Kit("puzzled", limits=always)


@cache
def _issued() -> tuple[tuple[Issued, ...], CertificateDemand]:
    """Each end's certificate, below one authority and an intermediate one."""
    rng = random.Random("siege")
    root = make_authority("root", make_key("ecdsa-p256", rng), YEAR, rng=rng)
    branch = make_authority("branch", make_key("ecdsa-p256", rng), YEAR, rng=rng, issuer=root)
    ends = tuple(
        issue(branch, Subject(str(name), (name,)), make_key("ecdsa-p256", rng), YEAR, rng=rng)
        for name in NAMES
    )
    return ends, CertificateDemand((root.certificate,))
