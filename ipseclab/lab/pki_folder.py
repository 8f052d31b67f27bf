"""A lab's authorities and certificates in a folder, as files that every tool reads (PEM).

    DIR/pki.json                 what there is, who issued it, what is revoked
    DIR/authorities/NAME.pem     certificate; NAME.key.pem its key, NAME.crl.pem its list
    DIR/certificates/NAME.pem    certificate and those above it; NAME.key.pem its key

With a seed and a time that are stated the same commands write the same octets (but for ML-DSA).
Private keys are not encrypted: they are a lab's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ipseclab.crypto.keys import KEY_KINDS
from ipseclab.crypto.signature import PRIVATE_KEYS, PrivateKey
from ipseclab.errors import ConfigError, Place
from ipseclab.ike.x509_read import UNREADABLE, one_line
from ipseclab.lab.identities import identity
from ipseclab.lab.impairment import derive
from ipseclab.lab.pki import (
    AUTHORITY_DAYS,
    LIST_DAYS,
    Authority,
    Subject,
    Validity,
    issue,
    make_authority,
    make_crl,
    make_key,
)
from ipseclab.lab.yaml_source import one_of

INDEX = "pki.json"
AUTHORITIES, CERTIFICATES = "authorities", "certificates"
PRIVATE_MODE = 0o600

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the index."""

    name: str
    issuer: str
    """"" for the root."""
    revoked: bool


@dataclass(slots=True)
class PkiFolder:
    """What is in a folder; each change is on disk when its method returns."""

    path: Path
    seed: int | None
    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        path: Path,
        now: datetime,
        *,
        name: str,
        key: str,
        intermediates: int,
        seed: int | None,
    ) -> PkiFolder:
        """A root and as many authorities below it, one below the other. Raises ConfigError."""
        if (path / INDEX).exists():
            raise ConfigError(f"has a {INDEX} already, expected an empty folder", Place(str(path)))
        made = cls(path, seed)
        above: Authority | None = None
        for number in range(intermediates + 1):
            own = name if not number else f"{name}-{number}"
            above = made._add_authority(own, key, above, now)
        made._write_index()
        return made

    @classmethod
    def open(cls, path: Path) -> PkiFolder:
        """The folder that `create` made. Raises ConfigError."""
        place = Place(str(path / INDEX))
        document = _read_json(path / INDEX, place)
        try:
            entries = [Entry(e["name"], e["issuer"], e["revoked"]) for e in document["entries"]]
            return cls(path, document["seed"], {entry.name: entry for entry in entries})
        except (KeyError, TypeError) as error:
            raise ConfigError("not an index of ipseclab pki", place) from error

    @property
    def authorities(self) -> list[str]:
        """Their names, the root first."""
        return [name for name in self.entries if self._folder(name) == AUTHORITIES]

    def issue(
        self,
        name: str,
        now: datetime,
        *,
        names: Sequence[str],
        key: str,
        days: float,
        issuer: str | None = None,
    ) -> Path:
        """A certificate for `name`, by default of the last authority; the file that holds it and
        those above. Raises ConfigError."""
        if name in self.entries:
            raise ConfigError(f"{name!r} is there already, expected another name", self._place)
        issuer = issuer if issuer is not None else self.authorities[-1]
        if issuer not in self.authorities:
            problem = f"{issuer!r} is not an authority, {one_of(self.authorities, issuer)}"
            raise ConfigError(problem, self._place)
        rng = self._generator(f"certificate of {name}")
        subject = Subject(name, tuple(identity(text) for text in (names or [name])))
        if not all(text.isascii() for text in names):
            raise ConfigError(f"{' '.join(names)!r}: expected names in ASCII (RFC 5280 section 7)")
        private = make_key(key, rng)
        made = issue(
            self._authority(issuer), subject, private, Validity.of_days(now, days), rng=rng
        )
        path = self._write(CERTIFICATES, name, private, made.chain)
        self.entries[name] = Entry(name, issuer, revoked=False)
        self._write_index()
        return path

    def revoke(self, name: str, now: datetime) -> Path:
        """Revoke a certificate; the list that now says so. Raises ConfigError."""
        entry = self.entries.get(name)
        if entry is None:
            choices = [item.name for item in self.entries.values() if item.issuer]
            raise ConfigError(f"{name!r} is not here, {one_of(choices, name)}", self._place)
        if not entry.issuer:
            raise ConfigError(f"{name!r} is the root, which nobody can revoke", self._place)
        self.entries[name] = Entry(name, entry.issuer, revoked=True)
        self._write_crl(self._authority(entry.issuer), entry.issuer, now)
        self._write_index()
        return self._crl_path(entry.issuer)

    def certificate(self, name: str) -> x509.Certificate:
        """The certificate of that name. Raises ConfigError."""
        return self._read(self._folder(name), name, x509.load_pem_x509_certificate)

    def _add_authority(
        self, name: str, key: str, above: Authority | None, now: datetime
    ) -> Authority:
        rng = self._generator(f"authority {name}")
        validity = Validity.of_days(now, AUTHORITY_DAYS)
        private = make_key(key, rng)
        made = make_authority(name, private, validity, rng=rng, issuer=above)
        issuer = self.authorities[-1] if above is not None else ""
        self._write(AUTHORITIES, name, private, (made.certificate,))
        self.entries[name] = Entry(name, issuer, revoked=False)
        self._write_crl(made, name, now)
        return made

    def _authority(self, name: str) -> Authority:
        """Read it, with those above it."""
        issuer = self.entries[name].issuer
        above = self._authority(issuer) if issuer else None
        private = self._read(AUTHORITIES, f"{name}.key", _read_key)
        return Authority(private, self.certificate(name), above)

    def _write_crl(self, authority: Authority, name: str, now: datetime) -> None:
        revoked = [
            self.certificate(entry.name)
            for entry in self.entries.values()
            if entry.revoked and entry.issuer == name
        ]
        crl = make_crl(authority, revoked, now, Validity.of_days(now, LIST_DAYS))
        self._put(self._crl_path(name), crl.public_bytes(Encoding.PEM))

    def _crl_path(self, name: str) -> Path:
        return self.path / AUTHORITIES / f"{name}.crl.pem"

    def _write(
        self, folder: str, name: str, private: PrivateKey, chain: Sequence[x509.Certificate]
    ) -> Path:
        key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._put(self.path / folder / f"{name}.key.pem", key, mode=PRIVATE_MODE)
        path = self.path / folder / f"{name}.pem"
        self._put(path, b"".join(item.public_bytes(Encoding.PEM) for item in chain))
        return path

    def _write_index(self) -> None:
        entries = [
            {"name": e.name, "issuer": e.issuer, "revoked": e.revoked}
            for e in self.entries.values()
        ]
        document = {"seed": self.seed, "entries": entries}
        self._put(self.path / INDEX, json.dumps(document, indent=1).encode() + b"\n")

    @staticmethod
    def _put(path: Path, octets: bytes, *, mode: int | None = None) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if mode is not None:
                path.touch(mode)
                path.chmod(mode)
            path.write_bytes(octets)
        except OSError as error:
            raise ConfigError(f"cannot be written: {error.strerror}", Place(str(path))) from None

    def _read(self, folder: str, name: str, parse: Callable[[bytes], _Read]) -> _Read:
        path = self.path / folder / f"{name}.pem"
        try:
            return parse(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", Place(str(path))) from None
        except UNREADABLE as error:
            raise ConfigError(f"not a PEM file: {one_line(error)}", Place(str(path))) from None

    def _folder(self, name: str) -> str:
        own = (self.path / AUTHORITIES / f"{name}.pem").exists()
        return AUTHORITIES if own else CERTIFICATES

    @property
    def _place(self) -> Place:
        return Place(str(self.path))

    def _generator(self, what: str) -> random.Random:
        return derive(self.seed, "pki", what) if self.seed is not None else random.SystemRandom()


def check_key_kind(kind: str) -> str:
    """The kind itself. Raises ConfigError."""
    if kind not in KEY_KINDS:
        raise ConfigError(f"{kind!r} is not a kind of key, {one_of(list(KEY_KINDS), kind)}")
    return kind


def _read_key(octets: bytes) -> PrivateKey:
    key = load_pem_private_key(octets, password=None)
    if not isinstance(key, PRIVATE_KEYS):
        raise ValueError("a key that cannot sign")
    return key


def _read_json(path: Path, place: Place) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"cannot be read: {error.strerror}, expected a folder of ipseclab pki init"
        raise ConfigError(problem, place) from None
    except ValueError as error:
        raise ConfigError(f"not JSON: {one_line(error)}", place) from None
    if not isinstance(document, dict):
        raise ConfigError("not an index of ipseclab pki", place)
    return document
