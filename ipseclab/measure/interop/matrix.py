"""The interop matrix: every tunnel between our gateway and strongSwan 5.9.8, as data.

Authentication in each role, with and without NAT, each through the whole of a tunnel's life; then
what IKE can do beyond that, then every cipher, integrity algorithm, PRF and group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from ipseclab.crypto.cipher import Cipher, find_cipher
from ipseclab.crypto.names import KEYWORDS, PRF_OF_INTEGRITY, NamedTransform, keyword_of
from ipseclab.measure.interop.algorithms import algorithms_in, foreign
from ipseclab.measure.interop.cells import (
    NAT,
    POOL,
    ROAMING,
    SITES,
    End,
    Lacking,
    Logged,
    Step,
    Traced,
    Tunnel,
)
from ipseclab.measure.interop.verdicts import Cell, Verdict
from ipseclab.registry import EncrId, IntegId, TransformType

WE, IT = End.WE, End.IT
ENDS = (WE, IT)
IKE, ESP = "connections.site.ike", "connections.site.esp"
AUTH, EAP = "connections.site.auth", "connections.site.eap"
IDS = "connections.site.ids"
PLAIN_IKE, PLAIN_ESP = "aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"


def matrix() -> tuple[Tunnel, ...]:
    """All tunnels, in the order of the table."""
    return (
        *_authentication(),
        *_features(),
        *_roaming(),
        *_ike_suites(),
        *_groups(),
        *_esp_suites(),
        *_unsupported(),
    )


# Authentication ----------------------------------------------------------------------------------


def _life(initiator: End) -> tuple[Step, ...]:
    """Everything that happens to a tunnel, by either end."""
    steps = [Step("initiate", initiator, transfers=True)]
    # Before any rekey: charon puts it off while a CHILD_SA that was rekeyed lingers.
    steps.append(Step("reauthenticate", initiator))
    steps += [Step("rekey_child", by) for by in ENDS]
    steps += [Step("rekey_ike", by) for by in ENDS]
    for by in ENDS:
        steps += [
            Step("delete_child", by),
            Step("initiate", by, again=f" of a CHILD_SA after its delete by {by}"),
        ]
    for by in ENDS:
        steps += [
            Step("delete_ike", by),
            Step("initiate", initiator, again=f" after the delete by {by}"),
        ]
    return (*steps, Step("rekey_child", initiator, transfers=True, again=" at last"))


def _keys(kind: str) -> tuple[tuple[str, object], ...]:
    """Authority and both nodes with a key of that kind."""
    return (
        ("certificates.authorities.lab-ca.key", kind),
        ("certificates.nodes.gw1.key", kind),
        ("certificates.nodes.gw2.key", kind),
    )


_AUTHENTICATION: tuple[tuple[str, tuple[tuple[str, object], ...], bool], ...] = (
    ("PSK", (), True),
    ("RSA", ((AUTH, "certificate"), *_keys("rsa-2048")), False),
    ("ECDSA P-256", ((AUTH, "certificate"), *_keys("ecdsa-p256")), True),
    ("Ed25519", ((AUTH, "certificate"), *_keys("ed25519")), False),
    (
        "EAP-MSCHAPv2",
        ((AUTH, ["eap-mschapv2", "certificate"]), (EAP, {"password": "through the looking glass"})),
        True,
    ),
    ("EAP-TLS", ((AUTH, ["eap-tls", "certificate"]), (EAP, {"versions": ["1.2"]})), False),
    ("raw keys", ((AUTH, "raw-key"), *_keys("ed25519")), False),
)
"""Name, settings, whether it is one of the quick ones."""

_FURTHER: tuple[tuple[str, tuple[tuple[str, object], ...]], ...] = (
    (
        "RSA-PSS SHA-512",
        (
            (AUTH, "certificate"),
            *_keys("rsa-2048"),
            ("connections.site.signatures", "rsa-pss-sha512"),
        ),
    ),
    (
        "RSA PKCS#1 v1.5",
        (
            (AUTH, "certificate"),
            *_keys("rsa-2048"),
            ("connections.site.signatures", "rsa-pkcs1-sha256"),
        ),
    ),
    ("ECDSA P-384", ((AUTH, "certificate"), *_keys("ecdsa-p384"))),
    ("ECDSA P-521", ((AUTH, "certificate"), *_keys("ecdsa-p521"))),
    ("Ed448", ((AUTH, "certificate"), *_keys("ed448"))),
    ("PSK and certificate", ((AUTH, ["psk", "certificate"]),)),
    ("raw RSA keys", ((AUTH, "raw-key"), *_keys("rsa-2048"))),
    ("raw ECDSA keys", ((AUTH, "raw-key"), *_keys("ecdsa-p256"))),
    (
        "EAP-MD5",
        ((AUTH, ["eap-md5", "certificate"]), (EAP, {"password": "through the looking glass"})),
    ),
    ("EAP-TLS alone (RFC 5998)", ((AUTH, ["eap-tls", "eap-only"]), (EAP, {"versions": ["1.2"]}))),
    (
        "two rounds (RFC 4739): certificate, EAP-MSCHAPv2",
        (
            (AUTH, [["certificate", "eap-mschapv2"], "certificate"]),
            (IDS, [["gw1", "user@example.org"], "gw2"]),
            (EAP, {"password": "through the looking glass"}),
        ),
    ),
    (
        "two rounds (RFC 4739): PSK, EAP-MD5",
        (
            (AUTH, [["psk", "eap-md5"], "psk"]),
            (IDS, [["gw1", "user@example.org"], "gw2"]),
            (EAP, {"password": "through the looking glass"}),
        ),
    ),
    (
        "two rounds (RFC 4739): EAP-MSCHAPv2, certificate",
        (
            (AUTH, [["eap-mschapv2", "certificate"], "certificate"]),
            (IDS, [["user@example.org", "gw1"], "gw2"]),
            (EAP, {"password": "through the looking glass"}),
        ),
    ),
    (
        "two rounds (RFC 4739) of each end: certificate, PSK",
        ((AUTH, [["certificate", "psk"], ["certificate", "psk"]]),),
    ),
    (
        "two rounds (RFC 4739) of the responder: PSK, certificate",
        ((AUTH, ["certificate", ["psk", "certificate"]]),),
    ),
    ("CRL", ((AUTH, "certificate"), ("connections.site.revocation", "crl"))),
    (
        "PPK (RFC 8784)",
        (("connections.site.ppk", {"id": "lab", "key": "of 32 octets", "required": True}),),
    ),
)
"""Ways to authenticate whose tunnels need no whole life."""


def _authentication() -> Iterator[Tunnel]:
    for name, settings, quick in _AUTHENTICATION:
        for ground in (SITES, NAT):
            for initiator in ENDS:
                yield Tunnel(
                    "authentication",
                    name,
                    initiator,
                    _life(initiator),
                    ground,
                    settings,
                    quick=quick and (ground is NAT) is (initiator is WE),
                )
    for name, settings in _FURTHER:
        for initiator in ENDS:
            yield Tunnel(
                "further authentication", name, initiator, _short(initiator), settings=settings
            )


def _short(initiator: End) -> tuple[Step, ...]:
    """Set-up, then a rekey of both SAs, one by each end."""
    return (
        Step("initiate", initiator),
        Step("rekey_ike", initiator.other),
        Step("rekey_child", initiator),
    )


# What IKE can do beyond that ---------------------------------------------------------------------

_FRAGMENTED = (
    (AUTH, "certificate"),
    ("connections.site.fragmentation", {"enabled": True, "size": 576}),
)
_HALF_OPEN = {
    "name": "half",
    "initiator": "gw1",
    "responder": "gw2",
    "ids": ["half1", "half2"],
    "psk": "a shared secret of the lab",
    "ike": PLAIN_IKE,
    "esp": PLAIN_ESP,
    "local_ts": "10.1.0.10/32[udp/9]",
    "remote_ts": "10.2.0.10/32[udp/9]",
    "encapsulation": "forced",
}
"""A connection whose IKE_AUTH is lost: what it leaves at strongSwan is half open."""


_feature = partial(Tunnel, "features")


def _features() -> Iterator[Tunnel]:
    yield from _messages()
    yield from _cookies()
    yield from _later()


def _messages() -> Iterator[Tunnel]:
    """What the messages of a handshake, or few more, are like."""
    for initiator in ENDS:
        yield _feature(
            "fragmentation (RFC 7383)",
            initiator,
            _short(initiator),
            settings=_FRAGMENTED,
            proofs=(
                Traced("our message in fragments", "ike_sent", more_than=("fragments", 1)),
                Traced("its message in fragments", "ike_received", more_than=("fragments", 1)),
            ),
            quick=initiator is WE,
        )
        yield _feature(
            "no fragmentation",
            initiator,
            _short(initiator),
            settings=(("connections.site.fragmentation", {"enabled": False}),),
        )
        yield _feature(
            "childless (RFC 6023)",
            initiator,
            _short(initiator),
            settings=(("connections.site.childless", "prefer"),),
            proofs=(
                Logged("an IKE_AUTH request without SA", r"IKE_AUTH request 1 \[(?:(?! SA ).)*\]"),
            ),
        )
        yield _feature(
            "window of 4",
            initiator,
            _short(initiator),
            settings=(("connections.site.window", 4),),
        )
        yield _feature(
            "liveness",
            initiator,
            (Step("initiate", initiator), Step("liveness", WE), Step("rekey_child", initiator)),
            proofs=(
                Traced(
                    "its answer",
                    "ike_received",
                    (("exchange", "INFORMATIONAL"), ("request", False)),
                ),
            ),
        )
        yield _feature(
            "wrong group first (INVALID_KE_PAYLOAD)",
            initiator,
            _short(initiator),
            settings=(
                (IKE, ["aes128gcm16-prfsha256-ecp384", "aes128gcm16-prfsha256-x25519"]),
                (ESP, ["aes128gcm16-ecp384", "aes128gcm16-x25519"]),
            ),
        )


def _cookies() -> Iterator[Tunnel]:
    yield _feature(
        "cookie that we demand",
        IT,
        _short(IT),
        cookies=True,
        proofs=(Logged("its request with the cookie", r"IKE_SA_INIT request 0 \[ N\(COOKIE\)"),),
        quick=True,
    )
    yield _feature(
        "cookie that it demands",
        WE,
        (Step("prepare", WE, connection="half"), *_short(WE)),
        settings=(
            (
                "connections",
                [
                    _HALF_OPEN,
                    _HALF_OPEN | {"name": SITES.connection, "ids": ["gw1", "gw2"], **_WHOLE},
                ],
            ),
            ("faults", [{"node": "gw1", "do": "drop", "exchange": "IKE_AUTH", "nth": 1}]),
        ),
        daemon=(("cookie_threshold", "1"), ("dos_protection", "yes")),
        proofs=(Logged("our request with the cookie", r"IKE_SA_INIT request 0 \[ N\(COOKIE\)"),),
    )


def _later() -> Iterator[Tunnel]:
    """An address, and authenticating anew."""
    for initiator in ENDS:
        yield _feature(
            "address and DNS from a pool",
            initiator,
            _short(initiator),
            POOL,
            proofs=(
                Traced("we are given an address", "address_assigned")
                if initiator is WE
                else Logged("it is given an address", r"installing new virtual IP 10\.9\.0\."),
            ),
            quick=initiator is WE,
        )
        yield _feature(
            "reauthentication by break before make",
            initiator,
            (Step("initiate", initiator), Step("reauthenticate", IT)),
        )
        yield _feature(
            "reauthentication by make before break",
            initiator,
            (Step("initiate", initiator), *(Step("reauthenticate", by) for by in ENDS)),
            daemon=(("make_before_break", "yes"),),
        )


def _roaming() -> Iterator[Tunnel]:
    """MOBIKE: the initiator gets another address; ours also falls back on its second link."""
    further = Step("move", WE, again=" to the other link", link="wifi")
    for initiator in ENDS:
        yield _feature(
            "MOBIKE (RFC 4555)",
            initiator,
            (
                Step("initiate", initiator),
                Step(
                    "move", initiator, again=" on the same link", link="wifi", address="192.0.2.7"
                ),
                Step("rekey_child", initiator.other),
                *((further, Step("rekey_ike", IT)) if initiator is WE else ()),
            ),
            ROAMING,
            settings=(("connections.site.encapsulation", "forced"),),
            proofs=(Logged("UPDATE_SA_ADDRESSES", r"INFORMATIONAL request .*N\(UPD_SA_ADDR\)"),),
            quick=initiator is WE,
        )


_WHOLE = {"local_ts": "10.1.0.0/24", "remote_ts": "10.2.0.0/24"}


# Algorithms --------------------------------------------------------------------------------------


def _ike_suites() -> Iterator[Tunnel]:
    """Each cipher of IKE, each integrity algorithm with the PRF of the same function."""
    for word, _named, cipher in _ciphers():
        if cipher.serves_ike:
            integrity = "" if cipher.aead else "-sha256"
            ike = f"{word}{integrity}-prfsha256-x25519"
            yield _suite("IKE ciphers", word, ike, PLAIN_ESP)
    for word, number in _integrity():
        prf = keyword_of(TransformType.PRF, PRF_OF_INTEGRITY[number], None)
        ike = f"aes128-{word}-{prf}-x25519"
        yield _suite("IKE integrity and PRF", f"{word}, {prf}", ike, PLAIN_ESP)


def _groups() -> Iterator[Tunnel]:
    """Each group: in IKE_SA_INIT, in the IKE_SA's rekey and in the CHILD_SA's."""
    for word, named in KEYWORDS.items():
        if named.type == TransformType.KE:
            ike, esp = f"aes128gcm16-prfsha256-{word}", f"aes128gcm16-{word}"
            yield _suite("groups", word, ike, esp, quick=word == "ecp384")


def _esp_suites() -> Iterator[Tunnel]:
    """Each cipher of ESP, and AES-CBC with each integrity algorithm."""
    for word, named, cipher in _ciphers():
        integrity = "" if cipher.aead else "-sha256"
        esp = f"{word}{integrity}-x25519"
        yield _suite("ESP ciphers", word, PLAIN_IKE, esp, quick=named.id in _QUICK_CIPHERS)
    for word, _number in _integrity():
        yield _suite("ESP integrity", word, PLAIN_IKE, f"aes128-{word}-x25519")


def _suite(topic: str, name: str, ike: str, esp: str, *, quick: bool = False) -> Tunnel:
    """We begin and it rekeys, so that each end asks for the suite and each grants it."""
    return Tunnel(
        topic,
        name,
        WE,
        (Step("initiate", WE, transfers=True), Step("rekey_ike", IT), Step("rekey_child", IT)),
        settings=((IKE, ike), (ESP, esp), ("connections.site.allow_weak", True)),
        algorithms=(*algorithms_in(ike), *algorithms_in(esp)),
        quick=quick,
    )


_QUICK_CIPHERS = (EncrId.ENCR_3DES, EncrId.ENCR_CHACHA20_POLY1305)


def _ciphers() -> Iterator[tuple[str, NamedTransform, Cipher]]:
    for word, named in KEYWORDS.items():
        cipher = find_cipher(named.id, named.key_bits) if isinstance(named.id, EncrId) else None
        if cipher is not None:
            yield word, named, cipher


def _integrity() -> Iterator[tuple[str, IntegId]]:
    for word, named in KEYWORDS.items():
        if isinstance(named.id, IntegId):
            yield word, named.id


# What strongSwan 5.9.8 has not --------------------------------------------------------------------

_DOCUMENTED: tuple[tuple[str, str], ...] = (
    ("transport mode", "kernel-libipsec supports tunnel mode only"),
    ("ESP without UDP", "kernel-libipsec supports UDP-encapsulated ESP only"),
    ("AH", "kernel-libipsec supports ESP only"),
    ("IPComp", "kernel-libipsec supports no IPComp"),
    ("several key exchanges (RFC 9370)", "from 6.0.0 on"),
    ("IKE_INTERMEDIATE (RFC 9242)", "from 6.0.0 on"),
    ("session resumption (RFC 5723)", "not among the RFCs that it lists"),
    ("quick crash detection (RFC 6290)", "not among the RFCs that it lists"),
    ("puzzles (RFC 8019)", "not among the RFCs that it lists"),
    ("TCP encapsulation (RFC 9329)", "not among the RFCs that it lists"),
    ("NULL authentication (RFC 7619)", "not among the RFCs that it lists"),
    ("ML-DSA certificates", "not among its key types"),
    ("OCSP in IKE (RFC 4806)", "not among the RFCs that it lists before 6.0.0"),
    ("EAP-TLS with TLS 1.3 (RFC 9190)", "its EAP-TLS with TLS 1.3 is older than that RFC"),
)
"""What there is nothing to try of: strongSwan has no setting by which one could ask for it."""


def _unsupported() -> Iterator[Tunnel]:
    for name, why in _DOCUMENTED:
        yield Tunnel("unsupported", name, WE, (Step("initiate", WE),), lacking=Lacking(why))
    yield Tunnel(
        "unsupported",
        "extended sequence numbers",
        WE,
        (Step("initiate", WE),),
        settings=((ESP, "aes128gcm16-x25519-esn"),),
        lacking=Lacking("kernel-libipsec refuses them", log="ESN not supported"),
    )
    yield Tunnel(
        "unsupported",
        "two rounds (RFC 4739) of the responder, where it initiates by PSK",
        IT,
        (Step("initiate", IT),),
        settings=((AUTH, ["psk", ["psk", "certificate"]]),),
        lacking=Lacking(
            "an initiator with a PSK or EAP wants all of the responder's rounds at once",
            log="insufficient authentication rounds",
        ),
    )


def foreign_cells(has: Mapping[str, Sequence[str]]) -> tuple[Cell, ...]:
    """What strongSwan could negotiate and we could not, as cells."""
    return tuple(
        Cell("not ours", name, kind, Verdict.NOT_OURS, "in its --list-algs")
        for kind, name in foreign(has)
    )
