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
from collections.abc import Iterable, Sequence
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


def ladder(records: Iterable[TraceRecord], *, times: bool = False) -> list[str]:
    """A line a message, in the order of sending; with `times`, seconds in front."""
    ike = [record for record in records if record.event in (SENT, RECEIVED)]
    rungs = _Rungs(ike)
    lines: list[str] = []
    for index, record in enumerate(ike):
        line = rungs.sent(index) if record.event == SENT else rungs.received(index)
        if line is not None:
            lines.append(f"{record.t:>12.6f}  {line}" if times else line)
    return lines


class _Rungs:
    """Who sent what to whom, and which of it arrived."""

    def __init__(self, ike: Sequence[TraceRecord]) -> None:
        self._ike = ike
        self._nodes = tuple(dict.fromkeys(record.node for record in ike))
        self._initiator = _initiator(ike)
        self._receivers: dict[int, str] = {}
        self._from_peer: dict[int, str] = {}
        self._match()

    def sent(self, index: int) -> str:
        """The line of a message that a traced node sent."""
        record = self._ike[index]
        receiver = self._receivers.get(index)
        if receiver is not None:
            return self._line(record, record.node, receiver)
        others = [node for node in self._nodes if node != record.node]
        if len(self._nodes) > 2:
            return self._line(record, record.node, str(record.fields["destination"]), lost=True)
        return self._line(record, record.node, others[0] if others else "", lost=bool(others))

    def received(self, index: int) -> str | None:
        """The line of a message whose sending is not traced; None where it has a line already."""
        record = self._ike[index]
        sender = self._from_peer.get(index)
        if sender is None:
            return None
        note = " (duplicate)" if sender else ""
        return self._line(record, sender, record.node) + note

    def _match(self) -> None:
        """Pair each receipt with the latest sending of the message before it that has none yet.

        Copies look alike, and one that was sent again was so because the first one was lost."""
        waiting: dict[_Identity, list[int]] = {}
        for index, record in enumerate(self._ike):
            identity = _identity(record)
            if record.event == SENT:
                waiting.setdefault(identity, []).append(index)
                continue
            sendings = [at for at in waiting.get(identity, ()) if at not in self._receivers]
            sendings = [at for at in sendings if self._ike[at].node != record.node]
            if sendings:
                self._receivers[sendings[-1]] = record.node
            else:
                others = [node for node in self._nodes if node != record.node]
                self._from_peer[index] = others[0] if len(others) == 1 else ""

    def _line(self, record: TraceRecord, sender: str, receiver: str, *, lost: bool = False) -> str:
        fields = record.fields
        kind = "request" if fields["request"] else "response"
        again = " (again)" if fields.get("retransmission") else ""
        part = f" {fields['fragment']}/{fields['fragments']}" if "fragment" in fields else ""
        what = f"{fields['exchange']} {kind} {fields['message_id']}{part}{again}"
        if len(self._nodes) > 2:
            return f"{sender or fields['source']} {'--x' if lost else '-->'} {receiver}  {what}"
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
