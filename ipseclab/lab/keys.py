"""Keys of a run as Wireshark's tables want them, and a run folder's capture with its keys.

Two of Wireshark's user tables: `ikev2_decryption_table` (a row an IKE_SA) and `esp_sa` (a row an
ESP SA, one way). The names of algorithms are Wireshark's own; its key of an AEAD cipher ends in
the salt, like ours. Wireshark 4.0 refuses a whole table for one unknown name, so a row of an
algorithm that it does not know is written as a comment (`# `), under IANA's name where no later
Wireshark has one either; `read_ike_rows` and `read_esp_rows` read those too.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from ipseclab.lab.pcapng import PcapngWriter
from ipseclab.outputs import EspKeyLog, IkeKeyLog

IKE_TABLE = "ikev2_decryption_table"
ESP_TABLE = "esp_sa"
CAPTURE_NAME = "capture.pcapng"
KEYS_FOLDER = "keys"

ANY_ADDRESS = "*"
AEAD_SALT = 4
CHACHA20_POLY1305 = "ENCR_CHACHA20_POLY1305"
_CHACHA_TEXT = "ChaCha20 with Poly1305 [RFC7634]"
_AES_KEY_SIZES = (16, 24, 32)
_COMMENT = "# "
_KEY_BITS = re.compile(r"_(128|192|256)$")
_CCM_SALT = 3
_TRIPLE_DES_KEY = 24

_IKE_ENCR: dict[tuple[str, int], str] = {
    **{("ENCR_AES_CBC", n): f"AES-CBC-{8 * n} [RFC3602]" for n in _AES_KEY_SIZES},
    **{
        (f"ENCR_AES_GCM_{icv}", n + AEAD_SALT): f"AES-GCM-{8 * n} with {icv} octet ICV [RFC5282]"
        for icv in (8, 12, 16)
        for n in _AES_KEY_SIZES
    },
    **{
        (f"ENCR_AES_CCM_{icv}", n + _CCM_SALT): f"AES-CCM-{8 * n} with {icv} octet ICV [RFC5282]"
        for icv in (8, 12, 16)
        for n in _AES_KEY_SIZES
    },
    **{("ENCR_AES_CTR", n + AEAD_SALT): f"AES-CTR-{8 * n} [RFC5930]" for n in _AES_KEY_SIZES},
    ("ENCR_3DES", _TRIPLE_DES_KEY): "3DES [RFC2451]",
    ("ENCR_NULL", 0): "NULL [RFC2410]",
    (CHACHA20_POLY1305, 32 + AEAD_SALT): _CHACHA_TEXT,
}
"""IANA's name and the key's octets (with salt) to Wireshark's name."""

_IKE_INTEG = {
    "NONE": "NONE [RFC4306]",
    "AUTH_HMAC_SHA1_96": "HMAC_SHA1_96 [RFC2404]",
    "AUTH_HMAC_SHA2_256_128": "HMAC_SHA2_256_128 [RFC4868]",
    "AUTH_HMAC_SHA2_384_192": "HMAC_SHA2_384_192 [RFC4868]",
    "AUTH_HMAC_SHA2_512_256": "HMAC_SHA2_512_256 [RFC4868]",
    "AUTH_AES_XCBC_96": "AUTH_AES_XCBC_96",
    "AUTH_AES_CMAC_96": "AUTH_AES_CMAC_96",
}

_ESP_ENCR = {
    "ENCR_NULL": "NULL",
    "ENCR_3DES": "TripleDES-CBC [RFC2451]",
    "ENCR_AES_CBC": "AES-CBC [RFC3602]",
    "ENCR_AES_CTR": "AES-CTR [RFC3686]",
    "ENCR_AES_GCM_8": "AES-GCM with 8 octet ICV [RFC4106]",
    "ENCR_AES_GCM_12": "AES-GCM with 12 octet ICV [RFC4106]",
    "ENCR_AES_GCM_16": "AES-GCM with 16 octet ICV [RFC4106]",
    CHACHA20_POLY1305: _CHACHA_TEXT,
    **{
        name: name
        for name in (
            "ENCR_AES_CCM_8",
            "ENCR_AES_CCM_12",
            "ENCR_AES_CCM_16",
            "ENCR_NULL_AUTH_AES_GMAC",
            "ENCR_AES_CCM_8_IIV",
            "ENCR_AES_GCM_16_IIV",
            "ENCR_CHACHA20_POLY1305_IIV",
        )
    },
}

_ESP_INTEG = {
    "NONE": "NULL",
    "AUTH_HMAC_SHA1_96": "HMAC-SHA-1-96 [RFC2404]",
    "AUTH_HMAC_SHA2_256_128": "HMAC-SHA-256-128 [RFC4868]",
    "AUTH_HMAC_SHA2_384_192": "HMAC-SHA-384-192 [RFC4868]",
    "AUTH_HMAC_SHA2_512_256": "HMAC-SHA-512-256 [RFC4868]",
    "AUTH_AES_XCBC_96": "AUTH_AES_XCBC_96",
    "AUTH_AES_CMAC_96": "AUTH_AES_CMAC_96",
}


def _iana(name: str) -> str:
    """IANA's name without the key size that a transform's own name ends in."""
    return _KEY_BITS.sub("", name.upper())


def ike_row(keys: IkeKeyLog) -> str:
    """The row of an IKE_SA. Raises KeyError for an algorithm that no Wireshark knows."""
    fields = (
        keys.spi_i.hex(),
        keys.spi_r.hex(),
        keys.sk_ei.hex(),
        keys.sk_er.hex(),
        f'"{_IKE_ENCR[_iana(keys.encr), len(keys.sk_ei)]}"',
        keys.sk_ai.hex(),
        keys.sk_ar.hex(),
        f'"{_IKE_INTEG[keys.integ.upper()]}"',
    )
    return ",".join(fields)


def esp_row(keys: EspKeyLog) -> str:
    """The row of an ESP SA, one way. Raises KeyError for an algorithm that no Wireshark knows.

    For any addresses: those are others on each side of a NAT and after a rebinding, SPI and keys
    stay.
    """
    fields = (
        "IPv4",
        ANY_ADDRESS,
        ANY_ADDRESS,
        f"0x{keys.spi.hex()}",
        _ESP_ENCR[_iana(keys.encr)],
        _hex_key(keys.encr_key),
        _ESP_INTEG[keys.integ.upper()],
        _hex_key(keys.integ_key),
    )
    return ",".join(f'"{field}"' for field in fields)


def table_line(keys: IkeKeyLog | EspKeyLog) -> str:
    """The line for a table file: the row, as a comment where Wireshark 4.0 lacks an algorithm."""
    row = ike_row(keys) if isinstance(keys, IkeKeyLog) else esp_row(keys)
    unknown = _CHACHA_TEXT in row or "ENCR_" in row or "AUTH_" in row
    return f"{_COMMENT}{row}" if unknown else row


def read_ike_rows(text: str) -> Iterator[IkeKeyLog]:
    """The rows of an `ikev2_decryption_table`; rows that are not of this kind are passed over."""
    encr_names = {text: name for (name, _size), text in _IKE_ENCR.items()}
    integ_names = {text: name for name, text in _IKE_INTEG.items()}
    for row in _rows(text):
        encr, integ = encr_names.get(row[4]), integ_names.get(row[7])
        if encr is None or integ is None:
            continue
        spi_i, spi_r, sk_ei, sk_er, sk_ai, sk_ar = (
            bytes.fromhex(row[i]) for i in (0, 1, 2, 3, 5, 6)
        )
        yield IkeKeyLog(spi_i, spi_r, encr, integ, sk_ei, sk_er, sk_ai, sk_ar)


def read_esp_rows(text: str) -> Iterator[EspKeyLog]:
    """The rows of an `esp_sa` table that name an IPv4 SA with keys."""
    encr_names = {text: name for name, text in _ESP_ENCR.items()}
    # The older name, without the octets of the ICV, means 16 of them.
    encr_names["AES-GCM [RFC4106]"] = "ENCR_AES_GCM_16"
    integ_names = {text: name for name, text in _ESP_INTEG.items()}
    for row in _rows(text):
        encr, integ = encr_names.get(row[4]), integ_names.get(row[6])
        if row[0] != "IPv4" or encr is None or integ is None:
            continue
        spi, encr_key, integ_key = (_from_hex_key(row[i]) for i in (3, 5, 7))
        yield EspKeyLog(spi, row[1], row[2], encr, integ, encr_key, integ_key)


def _rows(text: str) -> Iterator[list[str]]:
    lines = (line.removeprefix(_COMMENT) for line in text.splitlines())
    for row in csv.reader(lines):
        if len(row) == 8:
            yield row


def _hex_key(key: bytes) -> str:
    return f"0x{key.hex()}" if key else ""


def _from_hex_key(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


class KeyTables:
    """Wireshark's two tables in a folder, a row added as soon as an SA's keys are known.

    Both ends of an SA report the same keys: a row is written once.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ike: TextIO = (folder / IKE_TABLE).open("a", encoding="ascii")
        self._esp: TextIO = (folder / ESP_TABLE).open("a", encoding="ascii")
        self._written: dict[str, None] = {}

    def add(self, keys: IkeKeyLog | EspKeyLog) -> None:
        """Write down the keys of one SA, and flush: a killed run leaves a readable table."""
        line = table_line(keys)
        if line in self._written:
            return
        self._written[line] = None
        table = self._ike if isinstance(keys, IkeKeyLog) else self._esp
        table.write(f"{line}\n")
        table.flush()

    def close(self) -> None:
        """Close both tables."""
        self._ike.close()
        self._esp.close()


class Capture:
    """What a run folder keeps of the wire: `capture.pcapng`, and `keys/` to read it with."""

    def __init__(self, directory: Path, name: str = CAPTURE_NAME) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._stream = (directory / name).open("wb")
        self._writer = PcapngWriter(self._stream, ())
        self._interfaces: dict[str, int] = {}
        self._keys = KeyTables(directory / KEYS_FOLDER)

    def packet(self, interface: str, time: float, packet: bytes) -> None:
        """Add an IPv4 packet seen at `interface` (such as `gw1-eth1`) at `time` of the run."""
        index = self._interfaces.get(interface)
        if index is None:
            index = self._interfaces[interface] = self._writer.add_interface(interface)
        self._writer.write(index, time, packet)

    def keys(self, keys: IkeKeyLog | EspKeyLog) -> None:
        """Add the keys of one SA."""
        self._keys.add(keys)

    def flush(self) -> None:
        """Push buffered packets to the file."""
        self._stream.flush()

    def close(self) -> None:
        """Close every file; to be called once, at the end of the run."""
        self._keys.close()
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
