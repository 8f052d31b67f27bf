"""The EAP server, which is the responder of IKE: asks until it can say Success or Failure.

RFC 3748 sections 4 and 5. The peer may Nak the first request of a method once, and gets the first
method that it wants among those that are allowed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime

from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.config import Identity
from ipseclab.ike.eap.md5 import Md5Server
from ipseclab.ike.eap.method import ServerMethod, kind_of, request
from ipseclab.ike.eap.mschapv2 import MsChapServer
from ipseclab.ike.eap.settings import EapDemand
from ipseclab.ike.eap.tls import TlsServer, TlsSetting
from ipseclab.registry import EapCode, EapType
from ipseclab.wire.payloads import EapPayload

MAX_IDENTITY_SIZE = 253
"""Octets of a user's name: what fits into a RADIUS attribute."""


@dataclass(frozen=True, slots=True)
class ServerSetting:
    """What is demanded, and who the peer says that it is in IDi."""

    how: EapDemand
    user: bytes
    peer: Identity
    now: datetime


class EapServer:
    """One conversation."""

    def __init__(self, setting: ServerSetting, *, rng: random.Random) -> None:
        self._setting = setting
        self._rng = rng
        self._user = setting.user
        self._identifier = rng.randrange(256)
        self._kind = EapType.IDENTITY
        self._method: ServerMethod | None = None
        self._may_nak = False
        self.outcome: bool | None = None
        """True after Success, False after Failure."""
        self.reason = ""
        """Why it failed, for people."""

    @property
    def key(self) -> bytes:
        """The MSK of the method that succeeded; empty when it makes none."""
        return self._method.key if self._method is not None else b""

    def start(self) -> EapPayload:
        """The first request."""
        if self._setting.how.ask_identity:
            return request(self._identifier, EapType.IDENTITY, b"")
        return self._begin(self._setting.how.methods[0])

    def answer(self, packet: EapPayload) -> EapPayload:
        """The next request, or Success, or Failure. Raises AuthenticationFailed for a packet that
        no peer sends."""
        if packet.code != EapCode.RESPONSE or packet.identifier != self._identifier:
            raise AuthenticationFailed(
                f"EAP {packet.code.name} {packet.identifier}, expected RESPONSE {self._identifier}"
            )
        kind, data = kind_of(packet), packet.data[1:]
        if kind == EapType.NAK and self._may_nak:
            return self._refused(data)
        if kind != self._kind:
            return self._fail(f"EAP {kind.name} in answer to {self._kind.name}")
        if self._method is None:
            if not 1 <= len(data) <= MAX_IDENTITY_SIZE:
                return self._fail(f"EAP identity of {len(data)} octets")
            self._user = data
            self._identifier = (self._identifier + 1) % 256
            return self._begin(self._setting.how.methods[0])
        self._may_nak = False
        following = self._method.answer(self._identifier, data)
        if following is None:
            return self._over()
        self._identifier = (self._identifier + 1) % 256
        return request(self._identifier, self._kind, following)

    def _refused(self, wanted: bytes) -> EapPayload:
        """The peer wants another method."""
        others = [kind for kind in self._setting.how.methods if kind != self._kind]
        choice = next((kind for kind in others if int(kind) in wanted), None)
        if choice is None:
            return self._fail(f"the peer wants another EAP method than {self._kind.name}")
        self._identifier = (self._identifier + 1) % 256
        payload = self._begin(choice)
        self._may_nak = False
        return payload

    def _begin(self, kind: EapType) -> EapPayload:
        how = self._setting.how
        accounts = {user.encode(): password for user, password in how.accounts}
        self._kind, self._may_nak = kind, True
        password = accounts.get(self._user)
        match kind:
            case EapType.MD5_CHALLENGE:
                self._method = Md5Server(password, rng=self._rng)
            case EapType.MSCHAPV2:
                self._method = MsChapServer(self._user, password, rng=self._rng)
            case EapType.TLS if how.tls is not None:
                self._method = TlsServer(TlsSetting(how.tls, self._setting.peer, self._setting.now))
            case _:
                return self._fail(f"no EAP method {kind.name}")
        return request(self._identifier, kind, self._method.start(self._identifier))

    def _over(self) -> EapPayload:
        assert self._method is not None
        if not self._method.succeeded:
            why = self._method.reason or "the peer did not authenticate itself"
            return self._fail(f"EAP {self._kind.name}: {why}")
        self.outcome = True
        return EapPayload(EapCode.SUCCESS, self._identifier, b"")

    def _fail(self, reason: str) -> EapPayload:
        self.outcome, self.reason = False, reason
        return EapPayload(EapCode.FAILURE, self._identifier, b"")
