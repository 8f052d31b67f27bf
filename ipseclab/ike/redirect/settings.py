"""What a connection is told about redirection (RFC 5685)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class RedirectWhen(Enum):
    """At which point a gateway sends a client away."""

    INIT = "init"
    """In answer to IKE_SA_INIT, without state (section 3)."""
    AUTH = "auth"
    """When the client is authenticated (section 6)."""
    ASKED = "asked"
    """Only clients that have an IKE_SA, when its operator wants it (section 5)."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A client has `follow`, a gateway has `to`."""

    follow: bool = False
    """Whether this end goes where its gateway sends it."""
    names: tuple[tuple[str, str], ...] = ()
    """Addresses of gateways that are named by FQDN: (name, address). Nothing else is looked up."""
    to: str | None = None
    """The gateway to go to instead: an address, or an FQDN."""
    when: RedirectWhen = RedirectWhen.ASKED
    above: int = 0
    """IKE_SAs that this gateway keeps before it sends more of them away."""
