"""What makes a connection's `auth`, `ids` and `eap` fit each other.

RFC 4739: an end may authenticate in several rounds. EAP is an initiator's way, `eap-only` a
responder's beside a method that proves both ends (RFC 5998).
"""

from __future__ import annotations

from ipseclab.lab.model import AuthKind, Round
from ipseclab.lab.schema_connection import ConnectionFile
from ipseclab.lab.yaml_source import Key, YamlSource

Path = tuple[Key, ...]


def check_rounds(entry: ConnectionFile, path: Path, source: YamlSource) -> None:
    """How both ends authenticate. Raises ConfigError."""
    for side in range(len(entry.names)):
        _check_side(entry, side, path, source)
    first, second = entry.rounds
    for one in second:
        if one.kind.by_eap:
            problem = f"{one.kind.value} of the responder, expected it of the initiator, the first"
            raise source.error((*path, "auth"), problem)
    alone = [one.kind for one in second] == [AuthKind.EAP_ONLY]
    kinds = [one.kind for one in (*first, *second)]
    if AuthKind.EAP_ONLY in kinds and not (alone and first[0].kind is AuthKind.EAP_TLS):
        raise source.error((*path, "auth"), "eap-only, expected it in [eap-tls, eap-only]")
    if AuthKind.EAP_TLS in kinds and entry.revocation == "ocsp":
        problem = "ocsp, which EAP-TLS here has no place for, expected none or crl"
        raise source.error((*path, "revocation"), problem)
    _check_user(entry, first, path, source)


def _check_side(entry: ConnectionFile, side: int, path: Path, source: YamlSource) -> None:
    words, names = entry.auth[side], entry.names[side]
    for number, word in enumerate(words):
        if words.index(word) != number:
            problem = f"{word} twice of one end, expected each of its rounds to be another way"
            raise source.error((*path, "auth"), problem)
    if len(names) not in (1, len(words)):
        problem = f"{len(names)} identities, expected one, or as many as rounds ({len(words)})"
        raise source.error((*path, "ids", side), problem)


def _check_user(
    entry: ConnectionFile, rounds: tuple[Round, ...], path: Path, source: YamlSource
) -> None:
    users = [one.identity for one in rounds if one.kind.by_eap]
    stated = entry.eap.identity
    asks = stated is not None and (not users or any(user != stated for user in users))
    if asks and not entry.eap.ask_identity:
        problem = f"{stated!r}, which nobody asks for, expected ask_identity: true too"
        raise source.error((*path, "eap", "identity"), problem)
    if any(one.kind.by_password for one in rounds) and entry.eap.password is None:
        raise source.error((*path, "eap", "password"), "missing, expected the password as a text")
