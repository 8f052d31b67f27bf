"""The exception tree: what went wrong, and for IKE errors the Notify that answers it.

RFC 7296 section 2.21 (error handling) and 3.10.1 (the notifications). `WireError` is raised by
decoders, `IkeError` deep in an exchange and answered once, in the endpoint; `ConfigError` and
`EnvironmentLacks` end a command with exit codes 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipseclab.registry import KeMethod, NotifyType, PayloadType, ProtocolId


class IpsecLabError(Exception):
    """Root of everything that ipseclab raises on purpose."""


class WireError(IpsecLabError):
    """Octets that do not decode; the message states fact and limit."""


class IntegrityFailure(IpsecLabError):
    """An ICV that does not verify: dropped and counted, never answered."""


class KeyExchangeFailure(IpsecLabError):
    """A peer's public value that its group rejects (RFC 6989)."""


class SignatureFailure(IpsecLabError):
    """A signature that does not verify, or cannot be made."""


class IkeError(IpsecLabError):
    """An error that a Notify answers: `notify` is its type, `protocol` and `spi` the SA that it
    concerns, where that is not the IKE_SA itself."""

    notify: NotifyType = NotifyType.INVALID_SYNTAX
    protocol: ProtocolId = ProtocolId.NONE
    spi: bytes = b""

    def notification_data(self) -> bytes:
        """The Notify payload's data; empty unless a subclass says otherwise."""
        return b""


class InvalidSyntax(IkeError):
    """A message that decodes but breaks a rule of its exchange."""

    notify = NotifyType.INVALID_SYNTAX


class UnsupportedCriticalPayload(IkeError):
    """RFC 7296 section 2.5: the data is the one-octet payload type."""

    notify = NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD

    def __init__(self, payload_type: PayloadType) -> None:
        super().__init__(f"critical payload of unknown type {int(payload_type)}")
        self.payload_type = payload_type

    def notification_data(self) -> bytes:
        """The payload's type."""
        return bytes([self.payload_type])


class NoProposalChosen(IkeError):
    """No proposal in common (RFC 7296 section 2.7)."""

    notify = NotifyType.NO_PROPOSAL_CHOSEN


class InvalidKePayload(IkeError):
    """The KE payload is of another group than wanted (RFC 7296 section 1.3); data: the group."""

    notify = NotifyType.INVALID_KE_PAYLOAD

    def __init__(self, wanted: KeMethod) -> None:
        super().__init__(f"KE payload refused, wanted {wanted.name}")
        self.wanted = wanted

    def notification_data(self) -> bytes:
        """The group wanted, two octets."""
        return int(self.wanted).to_bytes(2, "big")


class AuthenticationFailed(IkeError):
    """RFC 7296 section 2.21.2."""

    notify = NotifyType.AUTHENTICATION_FAILED


class TsUnacceptable(IkeError):
    """No overlap of traffic selectors (RFC 7296 section 2.9)."""

    notify = NotifyType.TS_UNACCEPTABLE


class SinglePairRequired(IkeError):
    """The policy grants one pair of addresses a CHILD_SA, and more was asked for (RFC 7296 section
    2.9)."""

    notify = NotifyType.SINGLE_PAIR_REQUIRED


class TsMaxQueue(IkeError):
    """No further CHILD_SA with the same selectors is wanted (RFC 9611)."""

    notify = NotifyType.TS_MAX_QUEUE


class InternalAddressFailure(IkeError):
    """No address can be given to the peer (RFC 7296 section 3.15.4)."""

    notify = NotifyType.INTERNAL_ADDRESS_FAILURE


class FailedCpRequired(IkeError):
    """The peer asks for no address, and must (RFC 7296 section 2.19)."""

    notify = NotifyType.FAILED_CP_REQUIRED


class TemporaryFailure(IkeError):
    """A collision that resolves itself: try again later (RFC 7296 section 2.25)."""

    notify = NotifyType.TEMPORARY_FAILURE


class ChildSaNotFound(IkeError):
    """The SPI in REKEY_SA names no CHILD_SA; it goes back as it came (RFC 7296 section 2.25)."""

    notify = NotifyType.CHILD_SA_NOT_FOUND
    protocol = ProtocolId.ESP

    def __init__(self, spi: bytes) -> None:
        super().__init__(f"no CHILD_SA with SPI {spi.hex()}")
        self.spi = spi


class StateNotFound(IkeError):
    """No half-made SA has the link that IKE_FOLLOWUP_KE names (RFC 9370 section 2.2.4)."""

    notify = NotifyType.STATE_NOT_FOUND


class UnexpectedNatDetected(IkeError):
    """A NAT on a path where none is allowed (RFC 4555 section 3.9)."""

    notify = NotifyType.UNEXPECTED_NAT_DETECTED


class Redirected(IkeError):
    """The peer has to go to another gateway (RFC 5685 section 6)."""

    notify = NotifyType.REDIRECT

    def __init__(self, gateway: str, data: bytes) -> None:
        super().__init__(f"redirected to {gateway}")
        self._data = data

    def notification_data(self) -> bytes:
        """The gateway's identity."""
        return self._data


class NoAdditionalSas(IkeError):
    """A limit on CHILD_SAs is reached (RFC 7296 section 1.3)."""

    notify = NotifyType.NO_ADDITIONAL_SAS


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a user's file something stands; line and column from 1, 0 when unknown."""

    file: str
    line: int = 0
    column: int = 0
    key: str = ""

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        return f"{where}: {self.key}" if self.key else where


class ConfigError(IpsecLabError):
    """A user's input that cannot be used: one line with the place and what was expected; exit 2."""

    def __init__(self, problem: str, place: Place | None = None) -> None:
        super().__init__(f"{place}: {problem}" if place is not None else problem)
        self.problem = problem
        self.place = place


class EnvironmentLacks(IpsecLabError):
    """The machine cannot do what was asked: what is missing, and the remedy; exit 3."""

    def __init__(self, missing: str, remedy: str) -> None:
        super().__init__(f"{missing}; {remedy}")
        self.missing = missing
        self.remedy = remedy
