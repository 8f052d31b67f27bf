"""Shared secrets as a topology file has them: a text, or octets in hexadecimal after 0x.

RFC 7296 section 2.15 wants both, and that nothing is added to the octets.
"""

from __future__ import annotations

HEX_PREFIX = "0x"


def secret_octets(text: str) -> bytes:
    """The octets of a secret. Raises ValueError for hexadecimal that is none."""
    if text.startswith(HEX_PREFIX):
        return bytes.fromhex(text.removeprefix(HEX_PREFIX))
    return text.encode()


def check_secret(text: str) -> str:
    """`text` when it is a secret. Raises ValueError, which does not repeat it."""
    try:
        octets = secret_octets(text)
    except ValueError:
        octets = b""
    if not octets:
        raise ValueError("a secret that begins with 0x, expected pairs of hexadecimal digits")
    return text
