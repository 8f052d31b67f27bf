"""The stream of IKE and ESP in TCP: frames cut anywhere, prefixes, lengths that lie (RFC 9329)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.errors import WireError
from ipseclab.ike.natt import KEEPALIVE
from ipseclab.ike.tcp_stream import (
    LARGEST_FRAME,
    LARGEST_MESSAGE,
    STREAM_PREFIX,
    StreamReader,
    frame,
)

MESSAGES = st.lists(st.binary(min_size=2, max_size=300), max_size=12)


def test_the_octets_of_a_frame():
    assert bytes.fromhex("494b45544350") == STREAM_PREFIX
    assert frame(bytes(4) + b"ike") == bytes.fromhex("0009 00000000") + b"ike"


@pytest.mark.parametrize("prefixed", [True, False])
@given(messages=MESSAGES, data=st.data())
def test_messages_come_out_as_they_went_in_wherever_the_stream_is_cut(prefixed, messages, data):
    stream = (STREAM_PREFIX if prefixed else b"") + b"".join(map(frame, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, found = StreamReader(prefixed=prefixed), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.take(stream[start:end])
    assert found == messages
    assert reader.kept == 0


def test_octet_by_octet():
    reader = StreamReader(prefixed=True)
    stream = STREAM_PREFIX + frame(b"one") + frame(b"two")
    assert [m for octet in stream for m in reader.take(bytes([octet]))] == [b"one", b"two"]


def test_a_keepalive_is_ignored():
    assert StreamReader(prefixed=False).take(frame(KEEPALIVE) + frame(b"esp.")) == [b"esp."]


@pytest.mark.parametrize("wrong", [b"GET / HTTP/1.1", b"iketcp", b"IKETCQ", b"X", frame(b"ike")])
def test_a_stream_of_another_protocol_is_refused_at_its_first_wrong_octet(wrong):
    reader = StreamReader(prefixed=True)
    right = next(at for at, octet in enumerate(wrong) if octet != STREAM_PREFIX[at])
    assert reader.take(wrong[:right]) == []
    assert (reader.fault, reader.take(wrong[right : right + 1])) == ("", [])
    assert reader.fault == "stream does not begin with IKETCP"


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_length_that_does_not_count_itself_and_a_message_is_refused(length):
    reader = StreamReader(prefixed=False)
    octets = frame(b"one.") + frame(b"two.") + length.to_bytes(2, "big") + frame(b"more")
    assert reader.take(octets) == [b"one.", b"two."], "what came whole before it is not lost"
    assert reader.fault.startswith(f"frame of length {length}")
    assert reader.take(frame(b"after")) == []


@pytest.mark.parametrize("size", [0, LARGEST_MESSAGE + 1])
def test_what_no_frame_holds_is_refused(size):
    with pytest.raises(WireError):
        frame(bytes(size))


def test_the_largest_message_passes():
    message = bytes(LARGEST_MESSAGE)
    assert StreamReader(prefixed=False).take(frame(message)) == [message]


@given(chunks=st.lists(st.binary(max_size=4000), max_size=40))
def test_whatever_comes_no_more_than_a_frame_is_kept(chunks):
    reader = StreamReader(prefixed=False)
    for chunk in [b"\xff\xff", *chunks]:
        reader.take(chunk)
        assert reader.kept < LARGEST_FRAME
