"""EAP-TLS with TLS 1.2 (RFC 5216) and 1.3 (RFC 9190): certificates at both ends.

    Server                                   Peer
    TLS (Start)  -->
                                        <--  TLS (ClientHello)
    TLS (ServerHello ... Finished)  -->
                                        <--  TLS (... Finished)
    TLS (Finished, or with 1.3 one octet 0)  -->
                                        <--  TLS ()

A TLS flight longer than a fragment goes in several packets, each acknowledged by an empty one.
Whether a certificate is good is for `ike.trust`, as everywhere in IKE; it is looked at when the
handshake is through, so that a refusal is an EAP Failure and no TLS alert. Resumption is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding

from ipseclab.crypto.tls import TlsEnd, TlsFailure
from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.certificates import MAX_CERT_PAYLOADS, Presented
from ipseclab.ike.config import Identity
from ipseclab.ike.eap.settings import EapTls
from ipseclab.ike.trust import trusted_key
from ipseclab.ike.x509_read import read_certificate
from ipseclab.registry import EapType

LENGTH, MORE, START = 0x80, 0x40, 0x20
MAX_FLIGHT_SIZE = 65536
"""Octets of TLS that a peer may send before it must be answered."""
MAX_FRAGMENTS = 64
"""Packets that carry them, so that small ones cannot go on for ever."""
MSK_SIZE = 64
KEYS_SIZE = 128
LABEL_1_2 = b"client EAP encryption"
LABEL_1_3 = b"EXPORTER_EAP_TLS_Key_Material"
COMMITMENT = b"\0"
"""RFC 9190 section 2.5: the server will send no more TLS messages."""
ACKNOWLEDGEMENT = b"\0"
"""A packet without flags and data."""


@dataclass(frozen=True, slots=True)
class TlsSetting:
    """Both ends' certificates, whose name must stand in the peer's, and the time of day."""

    tls: EapTls
    peer: Identity
    now: datetime


class Fragments:
    """Flights cut into packets, and put together again (RFC 5216 section 2.1.5)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._outgoing = b""
        self._incoming = b""
        self._count = 0

    @property
    def sending(self) -> bool:
        """True while parts of a flight wait for an acknowledgement of the ones before."""
        return bool(self._outgoing)

    def send(self, flight: bytes) -> bytes:
        """The first packet of a flight; an acknowledgement when there is nothing to send."""
        if len(flight) <= self._size:
            return b"\0" + flight
        packet = bytes([LENGTH | MORE]) + len(flight).to_bytes(4, "big") + flight[: self._size]
        self._outgoing = flight[self._size :]
        return packet

    def following(self) -> bytes:
        """The next packet of a flight under way."""
        part, self._outgoing = self._outgoing[: self._size], self._outgoing[self._size :]
        return bytes([MORE if self._outgoing else 0]) + part

    def receive(self, data: bytes) -> bytes | None:
        """The flight that ends with this packet, None when more is to come. Raises
        AuthenticationFailed."""
        flags = data[0] if data else 0
        skipped = 5 if flags & LENGTH else 1
        if not data or len(data) < skipped:
            raise AuthenticationFailed("EAP TLS: packet without flags")
        self._incoming += data[skipped:]
        self._count += 1
        if len(self._incoming) > MAX_FLIGHT_SIZE or self._count > MAX_FRAGMENTS:
            raise AuthenticationFailed(f"EAP TLS: more than {MAX_FLIGHT_SIZE} octets in a flight")
        if flags & MORE:
            return None
        flight, self._incoming, self._count = self._incoming, b"", 0
        return flight


class _TlsMethod:
    """What both sides share: the TLS connection, the peer's certificate, the key."""

    def __init__(self, setting: TlsSetting, *, server: bool) -> None:
        own = setting.tls.credential
        versions = setting.tls.versions
        self._setting = setting
        self._end = TlsEnd(own.private, own.chain, server=server, versions=versions)
        self._fragments = Fragments(setting.tls.fragment)
        self._key = b""

    def _believe_peer(self) -> None:
        """Judge the peer's certificate and take the key. Raises AuthenticationFailed."""
        chain = self._end.peer_chain
        if len(chain) > MAX_CERT_PAYLOADS:
            raise AuthenticationFailed(f"EAP TLS: {len(chain)} certificates")
        octets = (certificate.public_bytes(Encoding.DER) for certificate in chain)
        shown = Presented(tuple(read_certificate(item) for item in octets))
        trusted_key(self._setting.tls.demand, shown, self._setting.peer, self._setting.now)
        if self._end.version == "1.3":
            keys = self._end.export(LABEL_1_3, KEYS_SIZE, bytes([EapType.TLS]))
        else:
            keys = self._end.export(LABEL_1_2, KEYS_SIZE, None)
        self._key = keys[:MSK_SIZE]


class TlsPeer(_TlsMethod):
    """The initiator's side: a TLS client."""

    def __init__(self, setting: TlsSetting) -> None:
        super().__init__(setting, server=False)
        self._started = False

    @property
    def done(self) -> bool:
        """True once the server is believed, and with TLS 1.3 has committed itself."""
        committed = self._end.established and (
            self._end.version != "1.3" or self._end.received == COMMITMENT
        )
        return bool(self._key) and committed

    @property
    def key(self) -> bytes:
        """The MSK."""
        return self._key if self.done else b""

    def answer(self, identifier: int, data: bytes) -> bytes:
        """The next flight, the next part of one, or an acknowledgement."""
        if data[:1] == bytes([START]) and not self._started:
            self._started = True
            return self._talk(b"")
        if not self._started:
            raise AuthenticationFailed("EAP TLS without a start")
        flight = self._fragments.receive(data)
        if self._fragments.sending:
            return self._fragments.following()
        return ACKNOWLEDGEMENT if flight is None else self._talk(flight)

    def _talk(self, flight: bytes) -> bytes:
        try:
            self._end.receive(flight)
        except TlsFailure as error:
            raise AuthenticationFailed(f"EAP TLS: {error}") from error
        if self._end.established and not self._key:
            self._believe_peer()
        return self._fragments.send(self._end.take())


class TlsServer(_TlsMethod):
    """The gateway's side: a TLS server that demands a certificate."""

    def __init__(self, setting: TlsSetting) -> None:
        super().__init__(setting, server=True)
        self._failed = False
        self.reason = ""
        """Why it failed, for people."""
        self.succeeded = False

    @property
    def key(self) -> bytes:
        """The MSK."""
        return self._key if self.succeeded else b""

    def start(self, identifier: int) -> bytes:
        """The start packet."""
        return bytes([START])

    def answer(self, identifier: int, data: bytes) -> bytes | None:
        """The next flight, the next part of one, an acknowledgement; None when it is over."""
        flight = self._fragments.receive(data)
        if self._fragments.sending:
            return self._fragments.following()
        if flight is None:
            return ACKNOWLEDGEMENT
        if self._failed or self._key:
            # The peer has nothing to add to the last flight of this end.
            self.succeeded = not self._failed and not flight
            return None
        if not flight:
            raise AuthenticationFailed("EAP TLS: an acknowledgement of nothing")
        return self._talk(flight)

    def _talk(self, flight: bytes) -> bytes | None:
        try:
            self._end.receive(flight)
            if self._end.established:
                self._believe_peer()
                if self._end.version == "1.3":
                    self._end.send(COMMITMENT)
        except (TlsFailure, AuthenticationFailed) as error:
            self._failed, self.reason = True, str(error)
            alert = self._end.take()
            return self._fragments.send(alert) if alert and not self._end.established else None
        return self._fragments.send(self._end.take())
