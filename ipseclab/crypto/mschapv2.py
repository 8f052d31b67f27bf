"""MS-CHAPv2: challenge, responses, keys from a password (RFC 2759 section 8, RFC 3079 section 3).

The names are the RFCs'. Single DES and MD4 are all that protects the password here: whoever sees a
challenge and its response can try every password, so it belongs inside a tunnel whose other end has
authenticated itself.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from ipseclab.crypto.md4 import md4

CHALLENGE_SIZE = 16
NT_RESPONSE_SIZE = 24
MSK_SIZE = 64
_CHALLENGE_HASH_SIZE = 8
_DES_KEYS_SIZE = 21
_MPPE_KEY_SIZE = 16

_SIGNING = b"Magic server to client signing constant"
_ITERATION = b"Pad to make it do more than one iteration"
_MASTER = b"This is the MPPE Master Key"
_CLIENT_SENDS = (
    b"On the client side, this is the send key; on the server side, it is the receive key."
)
_SERVER_SENDS = (
    b"On the client side, this is the receive key; on the server side, it is the send key."
)
_PAD_1, _PAD_2 = bytes(40), b"\xf2" * 40


def challenge_hash(peer_challenge: bytes, authenticator_challenge: bytes, user: bytes) -> bytes:
    """What the response answers (RFC 2759 section 8.2); `user` without a domain in front."""
    return _sha1(peer_challenge, authenticator_challenge, user)[:_CHALLENGE_HASH_SIZE]


def nt_password_hash(password: str) -> bytes:
    """RFC 2759 section 8.3."""
    return md4(password.encode("utf-16-le"))


def challenge_response(challenge: bytes, password_hash: bytes) -> bytes:
    """RFC 2759 section 8.5: the challenge under three DES keys."""
    keys = password_hash.ljust(_DES_KEYS_SIZE, b"\0")
    return b"".join(_des(keys[at : at + 7], challenge) for at in range(0, _DES_KEYS_SIZE, 7))


def nt_response(password: str, peer: bytes, authenticator: bytes, user: bytes) -> bytes:
    """GenerateNTResponse (RFC 2759 section 8.1), 24 octets."""
    return challenge_response(challenge_hash(peer, authenticator, user), nt_password_hash(password))


def authenticator_response(
    password: str, response: bytes, peer: bytes, authenticator: bytes, user: bytes
) -> bytes:
    """GenerateAuthenticatorResponse (RFC 2759 section 8.7): 20 octets, sent as S= and hex."""
    digest = _sha1(md4(nt_password_hash(password)), response, _SIGNING)
    return _sha1(digest, challenge_hash(peer, authenticator, user), _ITERATION)


def master_key(password: str, response: bytes) -> bytes:
    """GetMasterKey (RFC 3079 section 3.4)."""
    hashed_twice = md4(nt_password_hash(password))
    return _sha1(hashed_twice, response, _MASTER)[:_MPPE_KEY_SIZE]


def start_key(master: bytes, *, client_sends: bool) -> bytes:
    """GetAsymmetricStartKey (RFC 3079 section 3.4) for 128 bits."""
    magic = _CLIENT_SENDS if client_sends else _SERVER_SENDS
    return _sha1(master, _PAD_1, magic, _PAD_2)[:_MPPE_KEY_SIZE]


def eap_msk(password: str, response: bytes) -> bytes:
    """The MSK of EAP-MSCHAPv2: the server's receive key, its send key, zeros to 64 octets."""
    master = master_key(password, response)
    keys = start_key(master, client_sends=True) + start_key(master, client_sends=False)
    return keys.ljust(MSK_SIZE, b"\0")


def _des(key: bytes, block: bytes) -> bytes:
    """One block under one DES key of 7 octets, whose parity bits are put in."""
    bits = int.from_bytes(key, "big")
    spread = bytes((bits >> (49 - 7 * index) & 0x7F) << 1 for index in range(8))
    encryptor = Cipher(TripleDES(spread * 3), modes.ECB()).encryptor()  # three times the same: DES
    return encryptor.update(block) + encryptor.finalize()


def _sha1(*parts: bytes) -> bytes:
    return hashlib.sha1(b"".join(parts), usedforsecurity=False).digest()
