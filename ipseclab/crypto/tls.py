"""One end of a TLS connection whose records are carried by someone else: memory in, memory out.

Python's `ssl` cannot export keying material (RFC 5705, RFC 8446 section 7.5), which EAP-TLS needs,
so this is pyOpenSSL. It draws its randomness from the system: the octets of two runs differ,
and with ECDSA certificates their number as well. Whether a peer's certificate is to be believed is
not decided here: any chain passes, once its owner has signed with the key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from cryptography import x509
from OpenSSL import SSL

from ipseclab.crypto.signature import PrivateKey
from ipseclab.errors import IpsecLabError

VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
"""The versions that RFC 5216 (as RFC 9190 updates it) is used with."""
CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of TLS 1.3 are all good."""
OP_LEGACY_SERVER_CONNECT = 0x4
OP_NO_RENEGOTIATION = 1 << 30
"""Options of OpenSSL that pyOpenSSL has no names for."""
_READ_SIZE = 16384


class TlsFailure(IpsecLabError):
    """The handshake failed: an alert may be waiting to be sent."""


class TlsEnd:
    """A client, or a server that demands a client's certificate."""

    def __init__(
        self,
        private: PrivateKey,
        chain: Sequence[x509.Certificate],
        *,
        server: bool,
        versions: Sequence[str],
    ) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        numbers = sorted(VERSIONS[version] for version in versions)
        context.set_min_proto_version(numbers[0])
        context.set_max_proto_version(numbers[-1])
        context.set_cipher_list(CIPHERS)
        # Peers like strongSwan's TLS do not know RFC 5746; harmless where nobody renegotiates.
        context.set_options(SSL.OP_NO_TICKET | OP_NO_RENEGOTIATION | OP_LEGACY_SERVER_CONNECT)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        context.use_certificate(chain[0])
        context.use_privatekey(private)  # type: ignore[arg-type]
        for certificate in chain[1:]:
            context.add_extra_chain_cert(certificate)
        self._connection = SSL.Connection(context, None)
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
        self._received = b""
        self.established = False

    def receive(self, octets: bytes) -> None:
        """Take records of the peer; an empty string starts a client. Raises TlsFailure."""
        connection = self._connection
        try:
            if octets:
                connection.bio_write(octets)
            if not self.established:
                with contextlib.suppress(SSL.WantReadError):
                    connection.do_handshake()
                    self.established = True
            if self.established:
                with contextlib.suppress(SSL.WantReadError):
                    self._received += connection.recv(_READ_SIZE)
        except SSL.Error as error:
            raise TlsFailure(_reason(error)) from error

    def take(self) -> bytes:
        """The records that are to be sent."""
        records = b""
        with contextlib.suppress(SSL.WantReadError):
            while True:
                records += self._connection.bio_read(_READ_SIZE)
        return records

    def send(self, data: bytes) -> None:
        """Application data, once established."""
        self._connection.send(data)

    @property
    def received(self) -> bytes:
        """The peer's application data so far."""
        return self._received

    @property
    def version(self) -> str:
        """The version agreed on."""
        return self._connection.get_protocol_version_name().removeprefix("TLSv")

    @property
    def peer_chain(self) -> tuple[x509.Certificate, ...]:
        """The peer's certificates, its own first."""
        own = self._connection.get_peer_certificate(as_cryptography=True)
        if own is None:
            return ()
        chain = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        return (own, *(certificate for certificate in chain if certificate != own))

    def export(self, label: bytes, size: int, context: bytes | None) -> bytes:
        """Keying material for a use outside of TLS."""
        return self._connection.export_keying_material(label, size, context)


def _reason(error: SSL.Error) -> str:
    """The library's words for an error."""
    queue = error.args[0] if error.args else ()
    words = [entry[-1] for entry in queue if isinstance(entry, tuple)] if queue else []
    return words[-1] if words else type(error).__name__
