"""The keys and certificates of a topology's nodes, made when a run starts, and who trusts what.

A topology names how each end of a connection authenticates, and its authorities; `make_keyring`
makes them from generators that are given, so that a seed makes the same keys. What is wrong with a
certificate on purpose (its time, names, usage, that it is revoked) stands in the topology, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar, assert_never

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ipseclab.crypto.signature import PrivateKey, public_key_info
from ipseclab.ike.config import NullAuth, OwnAuth, PeerAuth, SharedKeyAuth
from ipseclab.ike.credentials import (
    LAB_EPOCH,
    CertificateAuth,
    CertificateDemand,
    RawKeyAuth,
    RawKeyDemand,
)
from ipseclab.ike.eap.settings import EapAuth, EapDemand, EapOnly, EapTls
from ipseclab.lab.identities import identity
from ipseclab.lab.impairment import derive
from ipseclab.lab.model import AuthKind, AuthorityPlan, CertificatePlan, Connection, Round
from ipseclab.lab.pki import (
    IPSEC_IKE,
    LIST_DAYS,
    Authority,
    Issued,
    Subject,
    Validity,
    issue,
    make_authority,
    make_crl,
    make_key,
    make_ocsp,
)
from ipseclab.lab.secret_text import secret_octets
from ipseclab.lab.topology import Topology
from ipseclab.registry import EapType

USAGES: Mapping[str, tuple[str, ...]] = {
    "ipsec": (IPSEC_IKE,),
    "server": ("1.3.6.1.5.5.7.3.1",),
    "client": ("1.3.6.1.5.5.7.3.2",),
    "any": ("2.5.29.37.0",),
    "code-signing": ("1.3.6.1.5.5.7.3.3",),
}
"""Extended key usages by the words of a topology file."""

EAP_METHODS: Mapping[AuthKind, tuple[EapType, ...]] = {
    AuthKind.EAP_MSCHAPV2: (EapType.MSCHAPV2,),
    AuthKind.EAP_MD5: (EapType.MD5_CHALLENGE,),
    AuthKind.EAP_TLS: (EapType.TLS,),
}

Generators = Callable[[str], random.Random]
"""The generator that belongs to a name."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys of a lab. `certificates` and `raw_keys` by node; empty where nobody needs them."""

    authorities: Mapping[str, Authority]
    roots: tuple[x509.Certificate, ...]
    """What every node trusts."""
    certificates: Mapping[str, Issued]
    raw_keys: Mapping[str, PrivateKey]
    crls: tuple[x509.CertificateRevocationList, ...]
    ocsp: Mapping[str, tuple[bytes, ...]]
    """By node: what its authorities say of its chain."""

    def own_auth(self, connection: Connection, node: str) -> tuple[OwnAuth, ...]:
        """How `node` proves who it is, round by round."""
        rounds = connection.rounds_of(node)
        return tuple(
            _named(self._own_round(connection, node, one.kind), one, rounds) for one in rounds
        )

    def peer_auth(self, connection: Connection, peer: str) -> tuple[PeerAuth, ...]:
        """What `peer` has to prove, round by round."""
        rounds = connection.rounds_of(peer)
        return tuple(_named(self._peer_round(connection, peer, one), one, rounds) for one in rounds)

    def _own_round(self, connection: Connection, node: str, kind: AuthKind) -> OwnAuth:
        match kind:
            case AuthKind.PSK:
                return SharedKeyAuth(secret_octets(connection.psk_of(node)))
            case AuthKind.ANONYMOUS:
                return NullAuth()
            case AuthKind.RAW_KEY:
                return RawKeyAuth(self.raw_keys[node], connection.signatures)
            case AuthKind.CERTIFICATE:
                return self._certificate(connection, node)
            case AuthKind.EAP_ONLY:
                return EapOnly()
            case AuthKind.EAP_TLS:
                return EapAuth(EAP_METHODS[AuthKind.EAP_TLS], tls=self._tls(connection, node))
            case AuthKind.EAP_MSCHAPV2 | AuthKind.EAP_MD5:
                user, password = connection.eap.identity, connection.eap.password
                named = user.encode() if user is not None else None
                return EapAuth(EAP_METHODS[kind], password, eap_identity=named)
            case _:
                assert_never(kind)

    def _peer_round(self, connection: Connection, peer: str, one: Round) -> PeerAuth:
        own = next(end for end in connection.ends if end != peer)
        match one.kind:
            case AuthKind.PSK:
                return SharedKeyAuth(secret_octets(connection.psk_of(own)))
            case AuthKind.ANONYMOUS:
                return NullAuth()
            case AuthKind.RAW_KEY:
                return RawKeyDemand((public_key_info(self.raw_keys[peer].public_key()),))
            case AuthKind.CERTIFICATE:
                return self._demand(connection)
            case AuthKind.EAP_ONLY:
                return EapOnly()
            case AuthKind.EAP_TLS | AuthKind.EAP_MSCHAPV2 | AuthKind.EAP_MD5:
                return self._eap_demand(connection, one)
            case _:
                assert_never(one.kind)

    def _certificate(self, connection: Connection, node: str) -> CertificateAuth:
        own = self.certificates[node]
        return CertificateAuth(own.private, own.chain, connection.signatures, self.ocsp[node])

    def _demand(self, connection: Connection) -> CertificateDemand:
        return CertificateDemand(
            self.roots,
            crls=self.crls if connection.revocation == "crl" else (),
            revocation_required=connection.revocation != "none",
            ask_ocsp=connection.revocation == "ocsp",
        )

    def _tls(self, connection: Connection, node: str) -> EapTls:
        demand = self._demand(connection)
        return EapTls(self._certificate(connection, node), demand, connection.eap.versions)

    def _eap_demand(self, connection: Connection, one: Round) -> EapDemand:
        plan = connection.eap
        user = plan.identity if plan.identity is not None else one.identity
        by_tls = one.kind is AuthKind.EAP_TLS
        return EapDemand(
            EAP_METHODS[one.kind],
            () if by_tls else ((user, plan.password),),
            self._tls(connection, connection.responder) if by_tls else None,
            plan.ask_identity,
        )


Way = TypeVar("Way", bound=OwnAuth | PeerAuth)


def _named(how: Way, one: Round, rounds: tuple[Round, ...]) -> Way:
    """With the identity of its round, where the connection's, that of the first, is another."""
    first = rounds[0]
    same = one.identity == first.identity and first.kind is not AuthKind.ANONYMOUS
    if same or one.kind is AuthKind.ANONYMOUS:
        return how
    return replace(how, identity=identity(one.identity))


EMPTY = Keyring({}, (), {}, {}, (), {})
"""Of a lab with pre-shared keys alone."""


def make_keyring(
    topology: Topology, *, generators: Generators | None = None, now: datetime = LAB_EPOCH
) -> Keyring:
    """The keys that the topology's connections need, at the time of day `now`.

    Without generators from seed 0."""
    draw = generators if generators is not None else (lambda name: derive(0, "pki", name))
    own = {
        node: [item for item in topology.connections_of(node) if item.mode]
        for node in topology.nodes
    }
    holders = [node for node in own if any(c.certified_names(node) for c in own[node])]
    bare = [node for node in own if any(c.raw_key_names(node) for c in own[node])]
    if not holders and not bare:
        return EMPTY
    authorities: dict[str, Authority] = {}
    for plan in topology.authorities if holders else ():
        authorities[plan.name] = _authority(plan, authorities, draw, now)
    plans = {node: topology.certificate_of(node) for node in (*holders, *bare)}
    issued = {node: _issue(plans[node], authorities, draw, now) for node in holders}
    raw = {node: make_key(plans[node].key, draw(f"raw key of {node}")) for node in bare}
    revoked = _revoked(topology, authorities, issued)
    crls = tuple(
        make_crl(authority, [c for c in gone if c.issuer == authority.certificate.subject], since,
                 validity)
        for since, validity, gone in _lists(topology, issued, revoked, now)
        for authority in authorities.values()
    )  # fmt: skip
    ocsp = {node: _ocsp(own, revoked, now) for node, own in issued.items()}
    roots = tuple(
        authorities[plan.name].certificate
        for plan in topology.authorities
        if plan.name in authorities and not plan.issuer and plan.trusted
    )
    return Keyring(authorities, roots, issued, raw, crls, ocsp)


def _authority(
    plan: AuthorityPlan, above: Mapping[str, Authority], draw: Generators, now: datetime
) -> Authority:
    rng = draw(f"authority {plan.name}")
    return make_authority(
        plan.name,
        make_key(plan.key, rng),
        _validity(plan.valid, now),
        rng=rng,
        issuer=above[plan.issuer] if plan.issuer else None,
        path_length=plan.path_length,
    )


def _issue(
    plan: CertificatePlan, authorities: Mapping[str, Authority], draw: Generators, now: datetime
) -> Issued:
    rng = draw(f"certificate of {plan.node}")
    subject = Subject(
        plan.node,
        tuple(identity(name) for name in plan.names),
        plan.signs,
        USAGES[plan.usage] if plan.usage else None,
    )
    key, validity = make_key(plan.key, rng), _validity(plan.valid, now)
    return issue(authorities[plan.issuer], subject, key, validity, rng=rng)


def _validity(days: tuple[float, float], now: datetime) -> Validity:
    return Validity(now + timedelta(days=days[0]), now + timedelta(days=days[1]))


def _revoked(
    topology: Topology, authorities: Mapping[str, Authority], issued: Mapping[str, Issued]
) -> list[x509.Certificate]:
    above = [
        authorities[plan.name].certificate
        for plan in topology.authorities
        if plan.revoked and plan.name in authorities
    ]
    nodes = [
        own.certificate for node, own in issued.items() if topology.certificate_of(node).revoked
    ]
    return [*above, *nodes]


def _lists(
    topology: Topology,
    issued: Mapping[str, Issued],
    revoked: list[x509.Certificate],
    now: datetime,
) -> Iterator[tuple[datetime, Validity, list[x509.Certificate]]]:
    """When an authority's lists are made, how long they are good, and what they have: one for now,
    and one for each moment of the run at which certificates are revoked. Every node has them all
    from the start, and believes none before its time."""
    yield now, Validity.of_days(now, LIST_DAYS), revoked
    later = {
        own.certificate: after
        for node, own in issued.items()
        if (after := topology.certificate_of(node).revoked_after) is not None
    }
    for moment in sorted(set(later.values())):
        since = now + timedelta(seconds=moment)
        gone = [certificate for certificate, after in later.items() if after <= moment]
        yield since, Validity(since, since + timedelta(days=LIST_DAYS)), [*revoked, *gone]


def _ocsp(own: Issued, revoked: list[x509.Certificate], now: datetime) -> tuple[bytes, ...]:
    """A response about each certificate of the chain."""
    found = []
    links = [own]
    authority: Authority | None = own.issuer
    while authority is not None and authority.issuer is not None:
        links.append(Issued(authority.private, authority.certificate, authority.issuer))
        authority = authority.issuer
    for link in links:
        since = now if link.certificate in revoked else None
        response = make_ocsp(link, Validity.of_days(now, LIST_DAYS), revoked=since)
        found.append(response.public_bytes(Encoding.DER))
    return tuple(found)
