"""EAP-MSCHAPv2 (draft-kamath-pppext-eap-mschapv2): a password proved by both ends, with a key.

    Server                                  Peer
    Challenge {challenge, name}  -->
                              <--  Response {peer challenge, NT-Response, user}
    Success {S=... M=...}  -->
                              <--  Success

After a wrong password the server says Failure with R=0: one try an IKE_AUTH. Changing passwords is
left out.
"""

from __future__ import annotations

import hmac
import random
import struct
from dataclasses import dataclass
from enum import IntEnum

from ipseclab.crypto.mschapv2 import (
    CHALLENGE_SIZE,
    NT_RESPONSE_SIZE,
    authenticator_response,
    eap_msk,
    nt_response,
)
from ipseclab.errors import AuthenticationFailed

SERVER_NAME = b"ipseclab"
RESPONSE_SIZE = 49
AUTHENTICATION_FAILURE = 691
MAX_MESSAGE_SIZE = 1024

_HEADER = struct.Struct("!BBH")


class OpCode(IntEnum):
    """The packets of MS-CHAPv2."""

    CHALLENGE = 1
    RESPONSE = 2
    SUCCESS = 3
    FAILURE = 4


@dataclass(frozen=True, slots=True)
class _Packet:
    opcode: int
    identifier: int
    body: bytes

    def encode(self) -> bytes:
        return _HEADER.pack(self.opcode, self.identifier, 4 + len(self.body)) + self.body


def _decode(data: bytes) -> _Packet:
    """A packet with its header. Raises AuthenticationFailed."""
    if len(data) < _HEADER.size or len(data) > MAX_MESSAGE_SIZE:
        raise AuthenticationFailed(f"EAP MSCHAPV2: packet of {len(data)} octets")
    opcode, identifier, length = _HEADER.unpack_from(data)
    if length != len(data):
        raise AuthenticationFailed(f"EAP MSCHAPV2: length {length}, packet holds {len(data)}")
    return _Packet(opcode, identifier, data[_HEADER.size :])


def _plain_user(user: bytes) -> bytes:
    """Without a domain in front (RFC 2759 section 4)."""
    return user.rpartition(b"\\")[2]


class MsChapPeer:
    """Proves the password, and wants the server to prove that it knows it."""

    def __init__(self, user: bytes, password: str, *, rng: random.Random) -> None:
        self._user = user
        self._password = password
        self._rng = rng
        self._expected = b""
        self._msk = b""
        self.done = False

    @property
    def key(self) -> bytes:
        """The MSK, once the server is believed."""
        return self._msk if self.done else b""

    def answer(self, identifier: int, data: bytes) -> bytes:
        """The Response to a Challenge, or Success or Failure acknowledged."""
        packet = _decode(data)
        match packet.opcode:
            case OpCode.CHALLENGE if not self._expected:
                return self._respond(packet)
            case OpCode.SUCCESS if self._expected:
                said = packet.body[:42]
                if not hmac.compare_digest(said.upper(), b"S=" + self._expected):
                    raise AuthenticationFailed(
                        "EAP MSCHAPV2: the server does not know the password"
                    )
                self.done = True
                return bytes([OpCode.SUCCESS])
            case OpCode.FAILURE:
                return bytes([OpCode.FAILURE])
            case _:
                raise AuthenticationFailed(f"EAP MSCHAPV2: unexpected packet {packet.opcode}")

    def _respond(self, packet: _Packet) -> bytes:
        body = packet.body
        if len(body) < 1 + CHALLENGE_SIZE or body[0] != CHALLENGE_SIZE:
            raise AuthenticationFailed("EAP MSCHAPV2: malformed Challenge")
        theirs, ours = body[1 : 1 + CHALLENGE_SIZE], self._rng.randbytes(CHALLENGE_SIZE)
        user = _plain_user(self._user)
        answer = nt_response(self._password, ours, theirs, user)
        proof = authenticator_response(self._password, answer, ours, theirs, user)
        self._expected = proof.hex().upper().encode()
        self._msk = eap_msk(self._password, answer)
        value = ours + bytes(8) + answer + b"\0"
        response = bytes([RESPONSE_SIZE]) + value + self._user
        return _Packet(OpCode.RESPONSE, packet.identifier, response).encode()


class MsChapServer:
    """Asks for the password's proof; `password` None: no such user, which looks the same."""

    def __init__(self, user: bytes, password: str | None, *, rng: random.Random) -> None:
        self._user = user
        self._password = password
        self._challenge = rng.randbytes(CHALLENGE_SIZE)
        self._identifier = 0
        self._proved = False
        self._waits_for = OpCode.RESPONSE
        self._msk = b""
        self.succeeded = False
        self.reason = ""

    @property
    def key(self) -> bytes:
        """The MSK, once the peer is believed."""
        return self._msk if self.succeeded else b""

    def start(self, identifier: int) -> bytes:
        """The Challenge."""
        self._identifier = identifier
        body = bytes([CHALLENGE_SIZE]) + self._challenge + SERVER_NAME
        return _Packet(OpCode.CHALLENGE, identifier, body).encode()

    def answer(self, identifier: int, data: bytes) -> bytes | None:
        """Success or Failure after a Response; None after its acknowledgement."""
        if self._waits_for is OpCode.RESPONSE:
            return self._judge(_decode(data))
        self.succeeded = self._proved and data[:1] == bytes([OpCode.SUCCESS])
        return None

    def _judge(self, packet: _Packet) -> bytes:
        body = packet.body
        if packet.opcode != OpCode.RESPONSE or len(body) <= RESPONSE_SIZE:
            raise AuthenticationFailed("EAP MSCHAPV2: malformed Response")
        if body[0] != RESPONSE_SIZE or packet.identifier != self._identifier:
            raise AuthenticationFailed("EAP MSCHAPV2: a Response to another Challenge")
        theirs = body[1 : 1 + CHALLENGE_SIZE]
        answer = body[25 : 25 + NT_RESPONSE_SIZE]
        name = body[1 + RESPONSE_SIZE :]
        # Who has no account takes as long to refuse.
        user, password = _plain_user(name), self._password if self._password is not None else ""
        expected = nt_response(password, theirs, self._challenge, user)
        right = hmac.compare_digest(expected, answer) and self._password is not None
        if not right or name != self._user:
            self._waits_for = OpCode.FAILURE
            failure = f"E={AUTHENTICATION_FAILURE} R=0 C={self._challenge.hex().upper()} V=3 M=no"
            return _Packet(OpCode.FAILURE, packet.identifier, failure.encode()).encode()
        self._waits_for, self._proved = OpCode.SUCCESS, True
        self._msk = eap_msk(password, answer)
        proof = authenticator_response(password, answer, theirs, self._challenge, user)
        said = f"S={proof.hex().upper()} M=welcome"
        return _Packet(OpCode.SUCCESS, packet.identifier, said.encode()).encode()
