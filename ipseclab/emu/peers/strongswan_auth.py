"""How strongSwan is told to authenticate: our connections' ways, in the words of vici.

See strongSwan's documentation of swanctl.conf (`connections.<conn>.local`) and of vici's load-cert,
load-key and load-shared. Keys and certificates go over the socket; no file holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)

from ipseclab.crypto.signature import PrivateKey, public_key_info
from ipseclab.errors import EnvironmentLacks
from ipseclab.ike.config import ConnectionConfig, Identity, OwnAuth, PeerAuth, PpkUse, SharedKeyAuth
from ipseclab.ike.credentials import CertificateAuth, CertificateDemand, RawKeyAuth, RawKeyDemand
from ipseclab.ike.eap.settings import EapAuth, EapDemand, EapOnly, EapTls
from ipseclab.registry import EapType, IdType

EAP_WORDS = {
    EapType.MSCHAPV2: "eap-mschapv2",
    EapType.MD5_CHALLENGE: "eap-md5",
    EapType.TLS: "eap-tls",
}
"""Its words for methods, which are the names of their plugins too."""
UNSUPPORTED_KEYS = ("MLDSA44PrivateKey", "MLDSA65PrivateKey", "MLDSA87PrivateKey")

Section = dict[str, Any]


def auth_sections(connection: ConnectionConfig) -> dict[str, Section]:
    """`connections.<conn>.local` and `remote`, one of each a round. Raises EnvironmentLacks."""
    sections: dict[str, Section] = {}
    for number, own in enumerate(connection.own_rounds, 1):
        sections[f"local-{number}"] = _local(connection, own)
    for number, peer in enumerate(connection.peer_rounds, 1):
        sections[f"remote-{number}"] = _remote(connection, peer)
    return sections


def _local(connection: ConnectionConfig, how: OwnAuth) -> Section:
    """What strongSwan proves in a round."""
    identity = how.identity if how.identity is not None else connection.own_id
    section: Section = {"id": identity_text(identity)}
    match how:
        case SharedKeyAuth():
            return {**section, "auth": "psk"}
        case CertificateAuth(_, chain, schemes):
            certs = [chain[0].public_bytes(Encoding.DER)]
            return {**section, "auth": _auth(schemes), "certs": certs}
        case RawKeyAuth(private, schemes):
            keys = [public_key_info(private.public_key())]
            return {**section, "auth": _auth(schemes), "pubkeys": keys}
        case EapAuth(methods):
            user = how.eap_identity if how.eap_identity is not None else b""
            named = {"eap_id": user.decode()} if user else {}
            return {**section, "auth": EAP_WORDS[methods[0]], **named, **_tls_certs(how.tls)}
        case EapOnly():
            demand = next(one for one in connection.peer_rounds if isinstance(one, EapDemand))
            return {**section, "auth": EAP_WORDS[demand.methods[0]], **_tls_certs(demand.tls)}
        case _:
            raise _unsupported(connection, how)


def _remote(connection: ConnectionConfig, how: PeerAuth) -> Section:
    """What we have to prove to it in a round."""
    identity = how.identity if how.identity is not None else connection.peer_id
    section: Section = {"id": identity_text(identity)}
    match how:
        case SharedKeyAuth():
            return {**section, "auth": "psk"}
        case CertificateDemand(authorities):
            return {
                **section,
                "auth": "pubkey",
                "cacerts": [item.public_bytes(Encoding.DER) for item in authorities],
                "revocation": "strict" if how.revocation_required else "relaxed",
            }
        case RawKeyDemand(keys):
            return {**section, "auth": "pubkey", "pubkeys": list(keys)}
        case EapDemand(methods):
            asked = {"eap_id": "%any"} if how.ask_identity else {}
            return {**section, "auth": EAP_WORDS[methods[0]], **asked}
        case EapOnly():
            own = next(one for one in connection.own_rounds if isinstance(one, EapAuth))
            return {**section, "auth": EAP_WORDS[own.methods[0]]}
        case _:
            raise _unsupported(connection, how)


def signs(connection: ConnectionConfig) -> bool:
    """True where either end has a key to show."""
    kinds = (CertificateAuth, CertificateDemand, RawKeyAuth, RawKeyDemand, EapAuth, EapDemand)
    rounds = (*connection.own_rounds, *connection.peer_rounds)
    return any(isinstance(how, kinds) for how in rounds)


def eap_plugins(connections: Iterable[ConnectionConfig]) -> tuple[str, ...]:
    """What charon must load for the EAP methods of those connections; nothing without any."""
    rounds = [how for c in connections for how in (*c.own_rounds, *c.peer_rounds)]
    methods = [m for how in rounds if isinstance(how, EapAuth | EapDemand) for m in how.methods]
    words = dict.fromkeys(EAP_WORDS[method] for method in methods)
    return ("md5", "eap-identity", *words) if words else ()


def load_credentials(session: Any, connection: ConnectionConfig) -> None:
    """Hand over the secrets, keys, certificates and CRLs of a connection."""
    for ppk in connection.ppks:
        name = ppk.identity.decode()
        shared = {"id": f"ppk-{connection.name}-{name}", "type": "PPK", "owners": [name]}
        session.load_shared({**shared, "data": ppk.key})
    for how in (*connection.own_rounds, *connection.peer_rounds):
        match how:
            case SharedKeyAuth(key):
                owners = list(_shared_key_owners(connection))
                shared = {"id": f"psk-{connection.name}", "type": "IKE", "owners": owners}
                session.load_shared({**shared, "data": key})
            case CertificateAuth(private, chain):
                session.load_key({"type": "any", "data": _pem(private)})
                for certificate in chain[1:]:
                    _load(session, "X509", certificate, flag="NONE")
            case CertificateDemand():
                for certificate in how.authorities:
                    _load(session, "X509", certificate, flag="CA")
                for certificate in how.intermediates:
                    _load(session, "X509", certificate, flag="NONE")
                for crl in how.crls:
                    _load(session, "X509_CRL", crl, flag="NONE")
            case RawKeyAuth(private):
                session.load_key({"type": "any", "data": _pem(private)})
            case EapAuth():
                named = how.eap_identity
                who = how.identity if how.identity is not None else connection.own_id
                user = named.decode() if named is not None else identity_text(who)
                if how.password:
                    _load_password(session, connection, 0, user, how.password)
                _load_tls(session, how.tls)
            case EapDemand():
                for number, (user, password) in enumerate(how.accounts):
                    _load_password(session, connection, number, user, password)
                _load_tls(session, how.tls)
            case _:
                pass


def _shared_key_owners(connection: ConnectionConfig) -> dict[str, None]:
    """Those who use the pre-shared key: in some round, or, as the other end, in the first."""
    owners = [connection.own_id, connection.peer_id]
    for how in (*connection.own_rounds, *connection.peer_rounds):
        if isinstance(how, SharedKeyAuth) and how.identity is not None:
            owners.append(how.identity)
    return dict.fromkeys(identity_text(one) for one in owners)


def _load_password(
    session: Any, connection: ConnectionConfig, number: int, user: str, password: str
) -> None:
    secret = {"id": f"eap-{connection.name}-{number}", "type": "EAP", "owners": [user]}
    session.load_shared({**secret, "data": password.encode()})


def _load_tls(session: Any, tls: EapTls | None) -> None:
    """EAP-TLS finds its key, certificates and authorities in the daemon's store by itself."""
    if tls is None:
        return
    session.load_key({"type": "any", "data": _pem(tls.credential.private)})
    for certificate in tls.credential.chain:
        _load(session, "X509", certificate, flag="NONE")
    for certificate in tls.demand.authorities:
        _load(session, "X509", certificate, flag="CA")


def _tls_certs(tls: EapTls | None) -> Section:
    if tls is None:
        return {}
    return {"certs": [tls.credential.chain[0].public_bytes(Encoding.DER)]}


def refuse_unsupported_auth(connection: ConnectionConfig) -> None:
    """Raise EnvironmentLacks for what strongSwan 5.9.8 cannot do."""
    if connection.ppks and connection.ppk_use is PpkUse.INTERMEDIATE:
        raise EnvironmentLacks(
            f"connection {connection.name}: strongSwan 5.9.8 has no PPKs in IKE_INTERMEDIATE",
            "ppk: {use: either}",
        )
    auth_sections(connection)
    for how in connection.own_rounds:
        if isinstance(how, CertificateAuth | RawKeyAuth):
            _refuse_key(connection, type(how.private).__name__)
        if isinstance(how, EapAuth) and how.tls is not None:
            _refuse_versions(connection, how.tls)
    for demand in connection.peer_rounds:
        for key in _keys(demand):
            _refuse_key(connection, type(key).__name__.replace("Public", "Private"))
        if isinstance(demand, EapDemand) and demand.tls is not None:
            _refuse_versions(connection, demand.tls)
        if isinstance(demand, CertificateDemand) and demand.ask_ocsp:
            raise EnvironmentLacks(
                f"connection {connection.name}: strongSwan 5.9.8 has no OCSP in IKE",
                "revocation: crl",
            )


def identity_text(identity: Identity) -> str:
    """An identity as strongSwan reads it, whatever it holds."""
    match identity.id_type:
        case IdType.ID_DER_ASN1_DN:
            return f"asn1dn:#{identity.data.hex()}"
        case IdType.ID_KEY_ID:
            return f"keyid:#{identity.data.hex()}"
        case _:
            return str(identity)


def _unsupported(connection: ConnectionConfig, how: object) -> EnvironmentLacks:
    return EnvironmentLacks(
        f"connection {connection.name}: strongSwan has no {type(how).__name__}",
        "auth: psk, certificate or raw-key",
    )


def _auth(schemes: tuple[str, ...]) -> str:
    """`rsa-pss-sha256` is `rsa/pss-sha256` there, and PKCS#1 v1.5 plainly `rsa-sha256`."""
    if not schemes:
        return "pubkey"
    first = schemes[0]
    return f"ike:{first.replace('rsa-pss', 'rsa/pss').replace('rsa-pkcs1', 'rsa')}"


def _keys(demand: PeerAuth) -> Iterator[object]:
    if isinstance(demand, RawKeyDemand):
        yield from (load_der_public_key(octets) for octets in demand.keys)
    elif isinstance(demand, CertificateDemand):
        yield from (certificate.public_key() for certificate in demand.authorities)


def _refuse_key(connection: ConnectionConfig, kind: str) -> None:
    if kind in UNSUPPORTED_KEYS:
        raise EnvironmentLacks(
            f"connection {connection.name}: strongSwan 5.9.8 has no ML-DSA",
            "an RSA, ECDSA or EdDSA key",
        )


def _refuse_versions(connection: ConnectionConfig, tls: EapTls) -> None:
    """Its EAP-TLS with TLS 1.3 is older than RFC 9190: the server says Success without the
    commitment of section 2.5, the client ends with a fault when it gets it."""
    if "1.2" not in tls.versions:
        raise EnvironmentLacks(
            f"connection {connection.name}: strongSwan 5.9.8 has no EAP-TLS as RFC 9190 has it",
            'eap: {versions: ["1.2"]}',
        )


def _pem(private: PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load(
    session: Any, kind: str, item: x509.Certificate | x509.CertificateRevocationList, *, flag: str
) -> None:
    data = item.public_bytes(Encoding.DER)
    session.load_cert({"type": kind, "flag": flag, "data": data})
