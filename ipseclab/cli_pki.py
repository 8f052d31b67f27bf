"""`ipseclab pki`: a lab's certification authorities, certificates and revocation lists as files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ipseclab.errors import ConfigError

pki_app = typer.Typer(
    help="Make a lab's authorities, certificates and revocation lists.", no_args_is_help=True
)

FolderArgument = Annotated[Path, typer.Argument(help="The folder of the lab's PKI.", metavar="DIR")]
NameArgument = Annotated[str, typer.Argument(help="Whose certificate.", metavar="NAME")]
KeyOption = Annotated[
    str,
    typer.Option(
        metavar="KIND", help="rsa-2048, ecdsa-p256, ed25519, ml-dsa-65 and others: see the error."
    ),
]
AtOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="The present, in UTC: 2026-01-01T00:00:00. By default now."),
]
DaysOption = Annotated[
    float, typer.Option(min=0.001, max=36_500.0, help="How long it is valid.", metavar="N")
]


@pki_app.command()
def init(
    folder: FolderArgument,
    name: Annotated[str, typer.Option(help="Of the root.", metavar="NAME")] = "lab-ca",
    key: KeyOption = "ecdsa-p256",
    intermediates: Annotated[
        int, typer.Option(min=0, max=8, metavar="N", help="Authorities below the root.")
    ] = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Same seed and time, same files.")
    ] = None,
    at: AtOption = None,
) -> None:
    """Make a root, authorities below it, and their lists of revoked certificates."""
    from ipseclab.lab.pki_folder import PkiFolder, check_key_kind

    made = PkiFolder.create(
        folder,
        _time(at),
        name=_file_name(name),
        key=check_key_kind(key),
        intermediates=intermediates,
        seed=seed,
    )
    for authority in made.authorities:
        print(folder / "authorities" / f"{authority}.pem")


@pki_app.command()
def issue(
    folder: FolderArgument,
    name: NameArgument,
    identity: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Name, mail or IP address; by default NAME."),
    ] = None,
    key: KeyOption = "ecdsa-p256",
    issuer: Annotated[
        str | None, typer.Option(metavar="NAME", help="By default the last authority.")
    ] = None,
    days: DaysOption = 365.0,
    at: AtOption = None,
) -> None:
    """Make a key and a certificate for an end."""
    from ipseclab.lab.pki_folder import PkiFolder, check_key_kind

    path = PkiFolder.open(folder).issue(
        _file_name(name),
        _time(at),
        names=identity or [],
        key=check_key_kind(key),
        days=days,
        issuer=issuer,
    )
    print(path)


@pki_app.command()
def revoke(folder: FolderArgument, name: NameArgument, at: AtOption = None) -> None:
    """Revoke a certificate: its issuer's list is written anew."""
    from ipseclab.lab.pki_folder import PkiFolder

    print(PkiFolder.open(folder).revoke(name, _time(at)))


@pki_app.command()
def show(folder: FolderArgument) -> None:
    """List what there is: name, issuer, key, validity, revocation."""
    from rich.console import Console
    from rich.table import Table

    from ipseclab.lab.pki_folder import PkiFolder
    from ipseclab.present.describe_certificates import key_words

    pki = PkiFolder.open(folder)
    table = Table("name", "issuer", "key", "valid from", "valid to", "revoked", box=None)
    for entry in pki.entries.values():
        certificate = pki.certificate(entry.name)
        table.add_row(
            entry.name,
            entry.issuer or "(root)",
            key_words(certificate),
            f"{certificate.not_valid_before_utc:%F %T}",
            f"{certificate.not_valid_after_utc:%F %T}",
            "revoked" if entry.revoked else "",
        )
    Console(highlight=False, width=160).print(table)


def _time(text: str | None) -> datetime:
    """The time of day. Raises ConfigError."""
    if text is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--at {text!r}: expected a time like 2026-01-01T00:00:00") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _file_name(name: str) -> str:
    """A name that can be a file's. Raises ConfigError."""
    if not name or name.startswith(".") or not all(c.isalnum() or c in "-_.@" for c in name):
        raise ConfigError(f"{name!r} is not usable, expected letters, digits and -_.@")
    return name
