"""The EAP peer, which is the initiator of IKE: answers requests until Success or Failure.

RFC 3748 sections 4 and 5.1 to 5.3. A request for a method that is not allowed gets a Nak with those
that are; after the first answer to a method no other may be asked for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime

from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.config import Identity
from ipseclab.ike.eap.md5 import Md5Peer
from ipseclab.ike.eap.method import (
    MUTUAL_METHODS,
    EapRefused,
    PeerMethod,
    kind_of,
    response,
)
from ipseclab.ike.eap.mschapv2 import MsChapPeer
from ipseclab.ike.eap.settings import EapAuth
from ipseclab.ike.eap.tls import TlsPeer, TlsSetting
from ipseclab.registry import EapCode, EapType
from ipseclab.wire.payloads import EapPayload


@dataclass(frozen=True, slots=True)
class PeerSetting:
    """Who speaks EAP with whom. `mutual_only`: the server proves itself by the method alone."""

    how: EapAuth
    user: bytes
    mutual_only: bool


class EapPeer:
    """One conversation."""

    def __init__(self, setting: PeerSetting, *, rng: random.Random) -> None:
        self._setting = setting
        self._rng = rng
        self._method: PeerMethod | None = None
        self._kind = EapType.NAK
        allowed = setting.how.methods
        if setting.mutual_only:
            allowed = tuple(kind for kind in allowed if kind in MUTUAL_METHODS)
        self._allowed = allowed

    @property
    def key(self) -> bytes:
        """The MSK of the method that succeeded; empty when it makes none."""
        return self._method.key if self._method is not None else b""

    def answer(
        self, packet: EapPayload, server: Identity | None, now: datetime
    ) -> EapPayload | None:
        """The response to a request of `server`, as it calls itself in IDr; None after Success.
        Raises AuthenticationFailed."""
        match packet.code:
            case EapCode.REQUEST:
                return self._respond(packet, server, now)
            case EapCode.SUCCESS:
                if self._method is None or not self._method.done:
                    raise AuthenticationFailed("EAP Success before a method was through")
                return None
            case EapCode.FAILURE:
                raise EapRefused("EAP Failure")
            case _:
                raise AuthenticationFailed(f"EAP {packet.code.name} from a server")

    def _respond(self, packet: EapPayload, server: Identity | None, now: datetime) -> EapPayload:
        kind, data = kind_of(packet), packet.data[1:]
        match kind:
            case EapType.IDENTITY:
                return response(packet.identifier, kind, self._setting.user)
            case EapType.NOTIFICATION:
                return response(packet.identifier, kind, b"")
        if self._method is None:
            self._method, self._kind = self._begin(kind, server, now), kind
        if self._method is None:
            wanted = bytes(self._allowed) if self._allowed else b"\0"
            return response(packet.identifier, EapType.NAK, wanted)
        if kind != self._kind:
            raise AuthenticationFailed(f"EAP {kind.name} in the middle of {self._kind.name}")
        answer = self._method.answer(packet.identifier, data)
        return response(packet.identifier, kind, answer)

    def _begin(self, kind: EapType, server: Identity | None, now: datetime) -> PeerMethod | None:
        """The method asked for, if it is allowed."""
        how = self._setting.how
        if kind not in self._allowed:
            return None
        match kind:
            case EapType.MD5_CHALLENGE:
                return Md5Peer(how.password)
            case EapType.MSCHAPV2:
                return MsChapPeer(self._setting.user, how.password, rng=self._rng)
            case EapType.TLS if how.tls is not None and server is not None:
                return TlsPeer(TlsSetting(how.tls, server, now))
            case _:
                return None
