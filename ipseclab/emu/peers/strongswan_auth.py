"""How strongSwan is told to authenticate: our connections' ways, in the words of vici.

See strongSwan's documentation of swanctl.conf (`connections.<conn>.local`) and of vici's load-cert,
load-key and load-shared. Keys and certificates go over the socket; no file holds them.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from ipseclab.ike.config import ConnectionConfig, Identity, PeerAuth, SharedKeyAuth
from ipseclab.ike.credentials import CertificateAuth, CertificateDemand, RawKeyAuth, RawKeyDemand
from ipseclab.registry import IdType

UNSUPPORTED_KEYS = ("MLDSA44PrivateKey", "MLDSA65PrivateKey", "MLDSA87PrivateKey")

Section = dict[str, Any]


def local_section(connection: ConnectionConfig) -> Section:
    """`connections.<conn>.local`: what strongSwan proves. Raises EnvironmentLacks."""
    (how,) = _one_round(connection, connection.own_rounds)
    section: Section = {"id": identity_text(connection.own_id)}
    match how:
        case SharedKeyAuth():
            return {**section, "auth": "psk"}
        case CertificateAuth(_, chain, schemes):
            certs = [chain[0].public_bytes(Encoding.DER)]
            return {**section, "auth": _auth(schemes), "certs": certs}
        case RawKeyAuth(private, schemes):
            keys = [public_key_info(private.public_key())]
            return {**section, "auth": _auth(schemes), "pubkeys": keys}
        case _:
            raise _unsupported(connection, how)


def remote_section(connection: ConnectionConfig) -> Section:
    """`connections.<conn>.remote`: what we have to prove to it. Raises EnvironmentLacks."""
    (how,) = _one_round(connection, connection.peer_rounds)
    section: Section = {"id": identity_text(connection.peer_id)}
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
        case _:
            raise _unsupported(connection, how)


def signs(connection: ConnectionConfig) -> bool:
    """True where either end has a key to show."""
    kinds = (CertificateAuth, CertificateDemand, RawKeyAuth, RawKeyDemand)
    rounds = (*connection.own_rounds, *connection.peer_rounds)
    return any(isinstance(how, kinds) for how in rounds)


def load_credentials(session: Any, connection: ConnectionConfig) -> None:
    """Hand over the secrets, keys, certificates and CRLs of a connection."""
    for how in (*connection.own_rounds, *connection.peer_rounds):
        match how:
            case SharedKeyAuth(key):
                owners = [identity_text(connection.own_id), identity_text(connection.peer_id)]
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
            case _:
                pass


def refuse_unsupported_auth(connection: ConnectionConfig) -> None:
    """Raise EnvironmentLacks for what strongSwan 5.9.8 cannot do."""
    local_section(connection)
    remote_section(connection)
    for how in connection.own_rounds:
        if isinstance(how, CertificateAuth | RawKeyAuth):
            _refuse_key(connection, type(how.private).__name__)
    for demand in connection.peer_rounds:
        for key in _keys(demand):
            _refuse_key(connection, type(key).__name__.replace("Public", "Private"))
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


def _one_round(connection: ConnectionConfig, rounds: tuple[Any, ...]) -> tuple[Any]:
    if len(rounds) != 1:
        raise EnvironmentLacks(
            f"connection {connection.name}: several rounds of authentication with strongSwan",
            "one round",
        )
    return (rounds[0],)


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


def _pem(private: PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load(
    session: Any, kind: str, item: x509.Certificate | x509.CertificateRevocationList, *, flag: str
) -> None:
    data = item.public_bytes(Encoding.DER)
    session.load_cert({"type": kind, "flag": flag, "data": data})
