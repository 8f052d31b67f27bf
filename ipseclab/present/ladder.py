"""IKE exchanges of a trace as lines in the RFC's notation, for reports and for tests to compare.

    I --> R  IKE_SA_INIT request 0
    I <-- R  IKE_SA_INIT response 0
    I --x R  IKE_AUTH request 1
    I --> R  IKE_AUTH request 1 (again)

I is the node that sent the first IKE_SA_INIT request. An x marks a message that its receiver, if
that node is traced too, never saw. With more than two nodes they go by their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ipseclab.lab.trace import FieldValue, TraceRecord

SENT = "ike_sent"
RECEIVED = "ike_received"


class _Identity(NamedTuple):
    """What a message looks like to both ends, whatever a NAT does to its addresses."""

    spi_i: FieldValue
    exchange: FieldValue
    message_id: FieldValue
    request: FieldValue
    octets: FieldValue
    fragment: FieldValue


@dataclass(frozen=True, slots=True)
class Rung:
    """A message of the ladder: who sent it to whom, and which of it arrived.

    `sender` and `receiver` are "" where they are not known. `at` is the time of its sending, or of
    its arrival where only that is traced; `arrived` None: not seen to.
    """

    record: TraceRecord
    at: float
    arrived: float | None
    sender: str
    receiver: str
    lost: bool = False
    duplicate: bool = False

    @property
    def words(self) -> str:
        """Exchange, kind and message ID, as in `IKE_AUTH request 1 (again)`."""
        fields = self.record.fields
        kind = "request" if fields["request"] else "response"
        again = " (again)" if fields.get("retransmission") else ""
        part = f" {fields['fragment']}/{fields['fragments']}" if "fragment" in fields else ""
        return f"{fields['exchange']} {kind} {fields['message_id']}{part}{again}"


def ladder(records: Iterable[TraceRecord], *, times: bool = False) -> list[str]:
    """A line a message, in the order of sending; with `times`, seconds in front."""
    found = _Rungs(_ike(records))
    lines = ((rung, found.line(rung)) for rung in found.all())
    return [f"{rung.at:>12.6f}  {line}" if times else line for rung, line in lines]


def rungs(records: Iterable[TraceRecord]) -> list[Rung]:
    """The same messages as values."""
    return list(_Rungs(_ike(records)).all())


def _ike(records: Iterable[TraceRecord]) -> list[TraceRecord]:
    return [record for record in records if record.event in (SENT, RECEIVED)]


class _Rungs:
    """Who sent what to whom, and which of it arrived."""

    def __init__(self, ike: Sequence[TraceRecord]) -> None:
        self._ike = ike
        self._nodes = tuple(dict.fromkeys(record.node for record in ike))
        self._initiator = _initiator(ike)
        self._receipts: dict[int, TraceRecord] = {}
        self._from_peer: dict[int, str] = {}
        self._match()

    def all(self) -> Iterator[Rung]:
        """Each message once, in the order of the records."""
        for index, record in enumerate(self._ike):
            rung = self._sent(index) if record.event == SENT else self._received(index)
            if rung is not None:
                yield rung

    def _sent(self, index: int) -> Rung:
        """A message that a traced node sent."""
        record = self._ike[index]
        receipt = self._receipts.get(index)
        if receipt is not None:
            return Rung(record, record.t, receipt.t, record.node, receipt.node)
        others = [node for node in self._nodes if node != record.node]
        if len(self._nodes) > 2:
            receiver = str(record.fields["destination"])
            return Rung(record, record.t, None, record.node, receiver, lost=True)
        receiver = others[0] if others else ""
        return Rung(record, record.t, None, record.node, receiver, lost=bool(others))

    def _received(self, index: int) -> Rung | None:
        """A message whose sending is not traced; None where it has a rung already."""
        record = self._ike[index]
        sender = self._from_peer.get(index)
        if sender is None:
            return None
        return Rung(record, record.t, record.t, sender, record.node, duplicate=bool(sender))

    def _match(self) -> None:
        """Pair each receipt with the latest sending of the message before it that has none yet.

        Copies look alike, and one that was sent again was so because the first one was lost."""
        waiting: dict[_Identity, list[int]] = {}
        for index, record in enumerate(self._ike):
            identity = _identity(record)
            if record.event == SENT:
                waiting.setdefault(identity, []).append(index)
                continue
            sendings = [at for at in waiting.get(identity, ()) if at not in self._receipts]
            sendings = [at for at in sendings if self._ike[at].node != record.node]
            if sendings:
                self._receipts[sendings[-1]] = record
            else:
                others = [node for node in self._nodes if node != record.node]
                self._from_peer[index] = others[0] if len(others) == 1 else ""

    def line(self, rung: Rung) -> str:
        """The rung as text."""
        what = f"{rung.words}{' (duplicate)' * rung.duplicate}"
        sender, receiver, lost = rung.sender, rung.receiver, rung.lost
        if len(self._nodes) > 2:
            source = sender or rung.record.fields["source"]
            return f"{source} {'--x' if lost else '-->'} {receiver}  {what}"
        if self._role(sender, receiver) == "I":
            return f"I {'--x' if lost else '-->'} R  {what}"
        return f"I {'x--' if lost else '<--'} R  {what}"

    def _role(self, sender: str, receiver: str) -> str:
        """I or R; an untraced end is whatever the other one is not."""
        if sender == self._initiator or (not sender and receiver != self._initiator):
            return "I"
        return "R"


def _identity(record: TraceRecord) -> _Identity:
    fields = record.fields
    return _Identity(*(fields.get(name) for name in _Identity._fields))


def _initiator(ike: Sequence[TraceRecord]) -> str:
    """The node that sent the first IKE_SA_INIT request; "" when that one is not traced."""
    for record in ike:
        if record.fields["exchange"] == "IKE_SA_INIT" and record.fields["request"]:
            return record.node if record.event == SENT else ""
    # The trace begins later: whoever sends the first message goes for the initiator.
    counts = Counter(record.node for record in ike if record.event == SENT)
    return next(iter(counts), "")
