"""MD4 and MS-CHAPv2 with the vectors of RFC 1320, RFC 2759 section 9.2, RFC 3079 section 3.5.3."""

import pytest

from ipseclab.crypto.md4 import md4
from ipseclab.crypto.mschapv2 import (
    authenticator_response,
    challenge_hash,
    eap_msk,
    master_key,
    nt_password_hash,
    nt_response,
    start_key,
)

PASSWORD, USER = "clientPass", b"User"
AUTHENTICATOR = bytes.fromhex("5B5D7C7D7B3F2F3E3C2C602132262628")
PEER = bytes.fromhex("21402324255E262A28295F2B3A337C7E")
RESPONSE = bytes.fromhex("82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF")


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (b"", "31d6cfe0d16ae931b73c59d7e0c089c0"),
        (b"a", "bde52cb31de33e46245e05fbdbd6fb24"),
        (b"abc", "a448017aaf21d8525fc10ae87aa6729d"),
        (b"message digest", "d9130a8164549fe818874806e1c7014b"),
        (b"abcdefghijklmnopqrstuvwxyz", "d79e1c308aa5bbcdeea8ed63df412da9"),
        (
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            "043f8582f241db351ce627e153e7f0e4",
        ),
        (b"1234567890" * 8, "e33b4ddc9c38f2199c3e7b164fcc0536"),
    ],
)
def test_md4_vectors(text, digest):
    assert md4(text).hex() == digest


def test_responses_of_rfc_2759():
    assert challenge_hash(PEER, AUTHENTICATOR, USER).hex() == "d02e4386bce91226"
    hashed = nt_password_hash(PASSWORD)
    assert hashed.hex() == "44ebba8d5312b8d611474411f56989ae"
    assert md4(hashed).hex() == "41c00c584bd2d91c4017a2a12fa59f3f"
    assert nt_response(PASSWORD, PEER, AUTHENTICATOR, USER) == RESPONSE
    said = authenticator_response(PASSWORD, RESPONSE, PEER, AUTHENTICATOR, USER)
    assert said.hex().upper() == "407A5589115FD0D6209F510FE9C04566932CDA56"


def test_keys_of_rfc_3079():
    master = master_key(PASSWORD, RESPONSE)
    assert master.hex().upper() == "FDECE3717A8C838CB388E527AE3CDD31"
    server_sends = start_key(master, client_sends=False)
    assert server_sends.hex().upper() == "8B7CDC149B993A1BA118CB153F56DCCB"
    msk = eap_msk(PASSWORD, RESPONSE)
    assert len(msk) == 64
    assert msk[16:32] == server_sends
    assert not any(msk[32:])
