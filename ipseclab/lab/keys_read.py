"""Secrets that open a capture, read from a keys file or folder.

Three formats: Wireshark's tables `ikev2_decryption_table` and `esp_sa` (a row an SA), and the
`.keys.json` of tests/vectors, which lists every secret in the order in which an end derived it. The
last names no IKE SPIs, and not which key an ESP SPI goes with: whoever opens the capture tries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ipseclab.errors import ConfigError, Place
from ipseclab.lab.keys import ESP_TABLE, IKE_TABLE, KEYS_FOLDER, read_esp_rows, read_ike_rows

JSON_SUFFIX = ".keys.json"
EXPECTED = (
    "expected Wireshark's ikev2_decryption_table or esp_sa, a .keys.json as in tests/vectors, "
    "or a folder with such files"
)

# Own limit: key files are small; a capture given by mistake is not read whole.
LARGEST_KEYS_FILE = 16 * 1024 * 1024


class KeyPair(NamedTuple):
    """Keys of one direction: encryption (an AEAD's with its salt) and integrity, perhaps empty."""

    encr: bytes
    integ: bytes


@dataclass(frozen=True, slots=True)
class IkeSecrets:
    """The keys of one IKE_SA. Without `spis` (of initiator and responder) any SA may be meant."""

    initiator: KeyPair = field(repr=False)
    responder: KeyPair = field(repr=False)
    spis: tuple[bytes, bytes] | None = None


@dataclass(frozen=True, slots=True)
class EspSecrets:
    """A key pair that the ESP SA of `spi` may have."""

    spi: bytes
    keys: KeyPair = field(repr=False)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What was read, and from where (for the reader of a decoded capture)."""

    ike: tuple[IkeSecrets, ...] = ()
    esp: tuple[EspSecrets, ...] = ()
    origin: str = ""

    def __str__(self) -> str:
        spis = len({secret.spi for secret in self.esp})
        return f"{self.origin}: keys of {len(self.ike)} IKE SAs and {spis} ESP SAs"


def find_keys(capture: Path) -> Path | None:
    """The keys that lie beside a capture: `X.keys.json` for `X.pcapng`, or a `keys` folder."""
    beside = capture.with_suffix("").with_name(capture.stem + JSON_SUFFIX)
    folder = capture.parent / KEYS_FOLDER
    if beside.is_file():
        return beside
    return folder if folder.is_dir() and _key_files(folder) else None


def read_secrets(path: Path) -> Secrets:
    """The secrets of a file, or of all key files in a folder. Raises ConfigError."""
    if not path.is_dir():
        return _read_file(path)
    files = _key_files(path)
    if not files:
        raise ConfigError(f"no keys in this folder, {EXPECTED}", Place(str(path)))
    return _joined((_read_file(file) for file in files), str(path))


def _key_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file()
        and (IKE_TABLE in file.name or ESP_TABLE in file.name or file.name.endswith(JSON_SUFFIX))
    )


def _read_file(path: Path) -> Secrets:
    place = Place(str(path))
    try:
        if path.stat().st_size > LARGEST_KEYS_FILE:
            raise ConfigError(f"above {LARGEST_KEYS_FILE} octets, {EXPECTED}", place)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{error.strerror}, {EXPECTED}", place) from None
    except UnicodeDecodeError:
        raise ConfigError(f"not a text file, {EXPECTED}", place) from None
    if text.lstrip().startswith(("{", "[")):
        return _read_json(text, path)
    return _read_tables(text, path)


def _joined(parts: Iterable[Secrets], origin: str) -> Secrets:
    read = tuple(parts)
    ike = tuple(secret for part in read for secret in part.ike)
    return Secrets(ike, tuple(secret for part in read for secret in part.esp), origin)


def _read_tables(text: str, path: Path) -> Secrets:
    """Rows of either table. A file of comments alone is a table of no SA yet."""
    ike: list[IkeSecrets] = []
    esp: list[EspSecrets] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            ike_rows, esp_rows = tuple(read_ike_rows(line)), tuple(read_esp_rows(line))
        except ValueError:
            raise ConfigError(
                "a key or SPI that is not hexadecimal", Place(str(path), number)
            ) from None
        if not ike_rows and not esp_rows and line.strip() and not line.startswith("#"):
            raise ConfigError(f"not a row that can be used, {EXPECTED}", Place(str(path), number))
        for row in ike_rows:
            initiator, responder = KeyPair(row.sk_ei, row.sk_ai), KeyPair(row.sk_er, row.sk_ar)
            ike.append(IkeSecrets(initiator, responder, (row.spi_i, row.spi_r)))
        esp += (EspSecrets(row.spi, KeyPair(row.encr_key, row.integ_key)) for row in esp_rows)
    return Secrets(tuple(ike), tuple(esp), str(path))


def _read_json(text: str, path: Path) -> Secrets:
    """The events of a `.keys.json`, grouped: SKEYSEED opens an IKE_SA, an encryption initiator key
    a CHILD_SA, and the ESP SAs behind it are its two directions."""
    ike: list[dict[str, bytes]] = []
    esp: list[EspSecrets] = []
    child: dict[str, bytes] = {}
    for item, value in _json_events(text, path):
        if item == "skeyseed":
            ike.append({})
        elif item.startswith("sk_") and ike:
            ike[-1][item] = value
        elif item == "encryption initiator key":
            child = {item: value}
        elif item.startswith(("encryption ", "integrity ")):
            child[item] = value
        elif item == "esp sa":
            esp += (EspSecrets(value, keys) for keys in _child_pairs(child))
    complete = [keys for keys in ike if "sk_ei" in keys and "sk_er" in keys]
    if not complete and not esp:
        raise ConfigError("no Sk_ei, Sk_er or ESP SA among its events", Place(str(path)))
    return Secrets(tuple(map(_ike_secrets, complete)), tuple(dict.fromkeys(esp)), str(path))


def _ike_secrets(keys: dict[str, bytes]) -> IkeSecrets:
    return IkeSecrets(
        KeyPair(keys["sk_ei"], keys.get("sk_ai", b"")),
        KeyPair(keys["sk_er"], keys.get("sk_ar", b"")),
    )


def _child_pairs(child: dict[str, bytes]) -> list[KeyPair]:
    return [
        KeyPair(child[f"encryption {role} key"], child.get(f"integrity {role} key", b""))
        for role in ("initiator", "responder")
        if f"encryption {role} key" in child
    ]


def _json_events(text: str, path: Path) -> list[tuple[str, bytes]]:
    """(item in lower case, its octets) of each event; the octets of an ESP SA are its SPI."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        place = Place(str(path), error.lineno, error.colno)
        raise ConfigError(f"not JSON: {error.msg}, {EXPECTED}", place) from None
    except RecursionError:
        raise ConfigError(f"JSON nested too deeply, {EXPECTED}", Place(str(path))) from None
    events = document.get("events") if isinstance(document, dict) else None
    if not isinstance(events, list):
        raise ConfigError(
            "a list was expected, of objects with `item` and `hex`", Place(str(path), key="events")
        )
    return [_json_event(event, index, path) for index, event in enumerate(events)]


def _json_event(event: object, index: int, path: Path) -> tuple[str, bytes]:
    place = Place(str(path), key=f"events[{index}]")
    if not isinstance(event, dict) or not isinstance(event.get("item"), str):
        raise ConfigError("an object with a text `item` was expected", place)
    item = event["item"].lower()
    key = "spi" if item == "esp sa" else "hex"
    try:
        return item, bytes.fromhex(event[key])
    except (KeyError, TypeError, ValueError):
        problem = f"`{key}` with hexadecimal digits was expected"
        raise ConfigError(problem, place) from None
