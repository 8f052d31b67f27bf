"""What a run did: records of (time, node, event, fields), one JSON object a line.

ARCHITECTURE.md lists the events and their fields. The text is the same for the same records
whatever PYTHONHASHSEED is: keys sorted, separators compact, times rounded to the nanosecond.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TextIO

NANOSECOND_DIGITS = 9

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode

FieldValue = str | int | float | bool | None


class TraceRecord(NamedTuple):
    """One event at a node; `t` is seconds after the start of the run."""

    t: float
    node: str
    event: str
    fields: Mapping[str, FieldValue]

    def to_json(self) -> str:
        """The record as one line, without the newline."""
        document = {**self.fields, "t": self.t, "node": self.node, "event": self.event}
        return _encode(document)


class Trace:
    """Takes records as they happen: to `sink` at once (a text file), and kept in `records`.

    With `keep` False nothing is kept, so that a long run's memory stays bounded.
    """

    def __init__(self, sink: TextIO | None = None, keep: bool = True) -> None:
        self._sink = sink
        self._keep = keep
        self.records: list[TraceRecord] = []

    def record(self, t: float, node: str, event: str, **fields: FieldValue) -> None:
        """Write down one event at time `t`; a field may not be called t, node or event."""
        record = TraceRecord(round(float(t), NANOSECOND_DIGITS), node, event, fields)
        self.write(record)

    def write(self, record: TraceRecord) -> None:
        """Take over a record made elsewhere (another process, another trace)."""
        if self._sink is not None:
            self._sink.write(record.to_json() + "\n")
        if self._keep:
            self.records.append(record)

    def flush(self) -> None:
        """Push buffered lines to the file."""
        if self._sink is not None:
            self._sink.flush()


def parse_record(line: str) -> TraceRecord:
    """The record in one line of a trace file. Raises ValueError when it is none."""
    document = json.loads(line)
    if not isinstance(document, dict):
        raise ValueError(f"trace line is a {type(document).__name__}, an object expected")
    try:
        t, node, event = document.pop("t"), document.pop("node"), document.pop("event")
    except KeyError as lacking:
        raise ValueError(f"trace line lacks {lacking}") from None
    return TraceRecord(float(t), str(node), str(event), document)


def read_trace(path: Path | str) -> Iterator[TraceRecord]:
    """The records of a trace file, in its order.

    A last line that was cut off (the run was killed while writing it) is left out; a bad line
    anywhere else raises ValueError with its number.
    """
    with Path(path).open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = parse_record(line)
            except ValueError as problem:
                if not line.endswith("\n"):
                    return
                raise ValueError(f"{path}:{number}: {problem}") from problem
            yield record


def merge(*traces: Iterable[TraceRecord]) -> Iterator[TraceRecord]:
    """The records of several traces by time; at equal times the earlier argument first.

    Each is sorted by itself first, since a process may write a packet's record a little late.
    """
    return heapq.merge(
        *(sorted(trace, key=_time) for trace in traces),
        key=_time,
    )


def _time(record: TraceRecord) -> float:
    return record.t
