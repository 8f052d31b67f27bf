"""Whether a peer's key may be believed: path validation, names, usage; or a pinned raw key.

RFC 5280 section 6 and RFC 4945 (the PKI profile of IKE). The path is found and looked at here, so
that each refusal has its reason; `cryptography.x509.verification` then has the last word, as far as
it goes: it knows no EdDSA, and there name constraints, which it alone checks, are refused. Names
are compared by their DER; policies are not looked at. A hostile chain costs a bounded number of
signatures.
"""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509 import verification

from ipseclab.crypto.signature import PUBLIC_KEYS, PublicKey, weakness
from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.certificates import Presented
from ipseclab.ike.config import Identity
from ipseclab.ike.credentials import CertificateDemand, RawKeyDemand
from ipseclab.ike.revocation import check_revocation
from ipseclab.ike.x509_read import UNREADABLE, ReadCertificate, one_line, read_certificate
from ipseclab.registry import IdType

MAX_SIGNATURE_CHECKS = 16
"""Certificates' signatures verified for one peer."""

EXTENDED_USAGES: Final = {
    "1.3.6.1.5.5.7.3.17": "ipsecIKE",
    "2.5.29.37.0": "anyExtendedKeyUsage",
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.2": "clientAuth",
}
"""Each of these allows IKE (RFC 4945 section 5.1.3.12; the last two because most CAs put nothing
else into certificates that gateways have)."""

Path = tuple[ReadCertificate, ...]
"""From the peer's own certificate up to the authority's."""


def trusted_key(
    trust: CertificateDemand, presented: Presented, identity: Identity, now: datetime
) -> PublicKey:
    """The key of the peer with that identity. Raises AuthenticationFailed, which says why not."""
    if not presented.certificates:
        raise AuthenticationFailed(_nothing(presented, "certificate"))
    own = presented.certificates[0]
    _check_current(own, now)
    _check_own(own)
    check_identity(own, identity)
    path = _Search(trust, presented, now).path()
    _ask_library(path, trust, now)
    check_revocation(path, trust, presented, now)
    return own.key


def pinned_key(pinned: RawKeyDemand, presented: Presented) -> PublicKey:
    """The peer's raw key, if it is one of ours. A peer that sends none means the only one that we
    know: RFC 7296 section 3.6 leaves CERT out where it tells nothing new, and strongSwan does so.
    Raises AuthenticationFailed."""
    if presented.raw_keys:
        octets = presented.raw_keys[0]
    elif len(pinned.keys) == 1:
        octets = pinned.keys[0]
    else:
        raise AuthenticationFailed(_nothing(presented, "raw public key"))
    if octets not in pinned.keys:
        raise AuthenticationFailed("the peer's raw public key is not the one expected")
    try:
        key = load_der_public_key(octets)
    except UNREADABLE as error:
        raise AuthenticationFailed(f"unreadable raw public key: {one_line(error)}") from error
    if not isinstance(key, PUBLIC_KEYS):
        raise AuthenticationFailed("raw public key of a kind that cannot sign")
    if problem := weakness(key):
        raise AuthenticationFailed(f"raw public key: {problem}")
    return key


def check_identity(own: ReadCertificate, identity: Identity) -> None:
    """The ID payload's name stands in the certificate (RFC 4945 section 3.1). Raises
    AuthenticationFailed."""
    if identity.id_type == IdType.ID_DER_ASN1_DN:
        matches = own.subject == identity.data
    else:
        matches = any(_same_name(name, identity) for name in own.names)
    if not matches:
        names = ", ".join(str(name.value) for name in own.names) or "none"
        raise AuthenticationFailed(
            f"certificate of {own} is not for {identity.id_type.name} {identity}; its alternative "
            f"names: {names}"
        )


def _nothing(presented: Presented, wanted: str) -> str:
    if presented.by_url:
        return f"{wanted} by hash and URL, which HTTP_CERT_LOOKUP_SUPPORTED never offered"
    return f"no CERT payload with a {wanted}"


def _same_name(name: x509.GeneralName, identity: Identity) -> bool:
    match identity.id_type, name:
        case IdType.ID_FQDN, x509.DNSName():
            return name.value.encode().lower() == identity.data.lower()
        case IdType.ID_RFC822_ADDR, x509.RFC822Name():
            own, _, domain = name.value.encode().rpartition(b"@")
            peer, _, peer_domain = identity.data.rpartition(b"@")
            return own == peer and domain.lower() == peer_domain.lower()
        case ((IdType.ID_IPV4_ADDR | IdType.ID_IPV6_ADDR), x509.IPAddress()):
            return name.value == ip_address(identity.data)
        case _:
            return False


def _check_current(item: ReadCertificate, now: datetime) -> None:
    certificate = item.certificate
    if now < certificate.not_valid_before_utc:
        begin = certificate.not_valid_before_utc
        raise AuthenticationFailed(f"certificate of {item} is not valid before {begin:%F %T} UTC")
    if now > certificate.not_valid_after_utc:
        end = certificate.not_valid_after_utc
        raise AuthenticationFailed(f"certificate of {item} expired at {end:%F %T} UTC")
    if problem := weakness(item.key):
        raise AuthenticationFailed(f"certificate of {item}: {problem}")
    if item.unprocessed:
        oid = item.unprocessed[0]
        raise AuthenticationFailed(f"certificate of {item} has the critical extension {oid}")


def _check_own(own: ReadCertificate) -> None:
    """It may sign for an IKE peer (RFC 4945 sections 5.1.3.2, 5.1.3.9 and 5.1.3.12)."""
    if own.authority:
        raise AuthenticationFailed(f"certificate of {own} is an authority's, not a peer's")
    usage = own.usage
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise AuthenticationFailed(f"certificate of {own}: key usage without digitalSignature")
    wanted = own.extended_usage
    if wanted is not None and not any(oid in EXTENDED_USAGES for oid in wanted):
        raise AuthenticationFailed(
            f"certificate of {own}: extended key usage {', '.join(wanted)}, one of "
            f"{', '.join(EXTENDED_USAGES.values())} wanted"
        )


def _check_authority(item: ReadCertificate, below: Path, now: datetime) -> None:
    """It may issue what `below` ends with (RFC 5280 section 6.1.4)."""
    _check_current(item, now)
    if not item.authority:
        raise AuthenticationFailed(f"{item} issued a certificate but is no authority")
    if item.usage is not None and not item.usage.key_cert_sign:
        raise AuthenticationFailed(f"{item} issued a certificate without key usage keyCertSign")
    length = sum(not between.self_issued for between in below[1:])
    if item.path_length is not None and length > item.path_length:
        raise AuthenticationFailed(
            f"chain too long: {length} authorities below {item}, which allows {item.path_length}"
        )


class _Search:
    """Looks for a path to a trusted authority, depth first; remembers why the longest failed."""

    def __init__(self, trust: CertificateDemand, presented: Presented, now: datetime) -> None:
        self._own = presented.certificates[0]
        self._anchors = tuple(read_certificate(item) for item in trust.authorities)
        known = tuple(read_certificate(item) for item in trust.intermediates)
        self._others = (*presented.certificates[1:], *known)
        self._max_chain = trust.max_chain
        self._now = now
        self._checks = 0
        self._depth = 0
        self._problem = f"{self._own}: issuer {_issuer(self._own)} is not known"

    def path(self) -> Path:
        """The path. Raises AuthenticationFailed."""
        found = self._from((self._own,))
        if found is None:
            raise AuthenticationFailed(self._problem)
        return found

    def _from(self, path: Path) -> Path | None:
        last = path[-1]
        if any(last.certificate == anchor.certificate for anchor in self._anchors):
            return path
        for issuer in self._anchors:
            if last.issuer == issuer.subject and self._step(path, issuer):
                return (*path, issuer)
        candidates = [item for item in self._others if last.issuer == item.subject]
        for issuer in candidates:
            if any(issuer.certificate == item.certificate for item in path):
                self._note(path, _loop(last, issuer))
            elif len(path) == self._max_chain:
                self._note(path, f"chain too long: more than {self._max_chain} certificates")
            elif self._step(path, issuer):
                found = self._from((*path, issuer))
                if found is not None:
                    return found
        if not candidates:
            self._note(path, f"{last}: issuer {_issuer(last)} is not a trusted authority")
        return None

    def _step(self, path: Path, issuer: ReadCertificate) -> bool:
        """True when `issuer` did issue the end of `path`, and was allowed to. Raises
        AuthenticationFailed when that was asked too often."""
        last = path[-1]
        try:
            _check_authority(issuer, path, self._now)
        except AuthenticationFailed as error:
            self._note(path, str(error))
            return False
        if last.weak_hash:
            self._note(path, f"certificate of {last} is signed with {last.weak_hash}")
            return False
        if self._checks == MAX_SIGNATURE_CHECKS:
            raise AuthenticationFailed(f"more than {MAX_SIGNATURE_CHECKS} signatures to verify")
        self._checks += 1
        try:
            last.certificate.verify_directly_issued_by(issuer.certificate)
        except (*UNREADABLE, InvalidSignature):
            self._note(path, f"certificate of {last} is not signed by {issuer}, which it names")
            return False
        return True

    def _note(self, path: Path, problem: str) -> None:
        if len(path) > self._depth:
            self._depth, self._problem = len(path), problem


def _issuer(item: ReadCertificate) -> str:
    return item.certificate.issuer.rfc4514_string() or "(no name)"


def _loop(last: ReadCertificate, issuer: ReadCertificate) -> str:
    if last.certificate == issuer.certificate:
        return f"{last} issued itself and is not a trusted authority"
    return f"loop: {last} is issued by {issuer}, which stands below it"


def _ask_library(path: Path, trust: CertificateDemand, now: datetime) -> None:
    """The library's own validation of what is on the path. Raises AuthenticationFailed."""
    if len(path) == 1:  # a peer's certificate that is trusted by itself
        return
    eddsa = (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
    if any(isinstance(item.key, eddsa) for item in path):
        for item in path:
            if item.name_constraints:
                raise AuthenticationFailed(f"{item}: name constraints on a path with EdDSA keys")
        return
    any_extension = verification.ExtensionPolicy.permit_all()
    authority = any_extension.require_present(
        x509.BasicConstraints, verification.Criticality.AGNOSTIC, None
    )
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store([path[-1].certificate]))
        .time(now)
        .max_chain_depth(trust.max_chain)
        .extension_policies(ca_policy=authority, ee_policy=any_extension)
        .build_client_verifier()
    )
    try:
        verifier.verify(path[0].certificate, [item.certificate for item in path[1:-1]])
    except (*UNREADABLE, verification.VerificationError) as error:
        raise AuthenticationFailed(f"certificate of {path[0]}: {one_line(error)}") from error
