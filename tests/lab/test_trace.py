import io
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.lab.trace import Trace, TraceRecord, merge, parse_record, read_trace

SCRIPT = """
import sys
from ipseclab.lab.impairment import derive
from ipseclab.lab.trace import Trace
trace = Trace(sys.stdout, keep=False)
rng = derive(7, "wan", "forward")
for index in range(50):
    trace.record(rng.random(), "gw1", "probe_sent", zulu=index, alpha=rng.random(), flow="f")
"""


def test_a_record_is_one_compact_line_with_sorted_keys():
    sink = io.StringIO()
    Trace(sink).record(0.1 + 0.2, "gw1", "ike_sent", spi_r="00", octets=3, retransmission=0)
    assert sink.getvalue() == (
        '{"event":"ike_sent","node":"gw1","octets":3,"retransmission":0,"spi_r":"00","t":0.3}\n'
    )


def test_times_are_rounded_to_the_nanosecond():
    trace = Trace()
    trace.record(1.23456789049, "h1", "ping_sent")
    trace.record(1, "h1", "ping_sent")
    assert [record.t for record in trace.records] == [1.234567890, 1.0]


def test_without_keep_nothing_is_held_in_memory():
    sink = io.StringIO()
    trace = Trace(sink, keep=False)
    trace.record(0.0, "h1", "ping_sent")
    assert trace.records == []
    assert sink.getvalue().count("\n") == 1


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="JSON compliant"):
        Trace(io.StringIO()).record(0.0, "h1", "ping_received", rtt=float("nan"))


FIELDS = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name not in ("t", "node", "event")),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
)  # fmt: skip


@given(st.floats(0, 1e6), st.text(), st.text(), FIELDS)
def test_a_record_survives_its_line(t, node, event, fields):
    record = TraceRecord(round(t, 9), node, event, fields)
    line = record.to_json()
    assert "\n" not in line
    assert parse_record(line) == record


def test_reading_gives_what_was_written(tmp_path):
    path = tmp_path / "trace.jsonl"
    with path.open("w") as sink:
        trace = Trace(sink)
        trace.record(0.0, "gw1", "ike_sent", octets=1)
        trace.record(1.0, "gw2", "ike_received", octets=1)
    assert list(read_trace(path)) == trace.records


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_cut_off_last_line_is_left_out(tmp_path, cut):
    path = tmp_path / "trace.jsonl"
    sink = io.StringIO()
    trace = Trace(sink)
    trace.record(0.0, "gw1", "ike_sent", octets=1)
    trace.record(1.0, "gw2", "ike_received", octets=1)
    path.write_text(sink.getvalue()[:-cut])
    # Without its newline alone the last line is whole.
    assert list(read_trace(path)) == trace.records[: 2 if cut == 1 else 1]


def test_a_bad_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"t":0,"node":"a","event":"b"}\n{"t":\n{"t":1,"node":"a","event":"b"}\n')
    with pytest.raises(ValueError, match=r"trace\.jsonl:2: "):
        list(read_trace(path))


@pytest.mark.parametrize("line", ["[1]", '{"t":1,"node":"a"}', '{"t":"x","node":"a","event":"b"}'])
def test_what_is_no_record_is_refused(line):
    with pytest.raises(ValueError, match=r"trace line|could not convert"):
        parse_record(line)


def test_merge_is_by_time_and_stable():
    first = [TraceRecord(t, "a", name, {}) for t, name in ((1.0, "1"), (3.0, "2"), (2.0, "3"))]
    second = [TraceRecord(t, "b", name, {}) for t, name in ((1.0, "4"), (2.0, "5"), (2.0, "6"))]
    assert [record.event for record in merge(first, second)] == ["1", "4", "3", "5", "6", "2"]


def test_the_text_does_not_depend_on_the_hash_seed():
    def run(seed):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        return done.stdout

    first = run("1")
    assert first == run("2")
    assert len([json.loads(line) for line in first.splitlines()]) == 50
