"""What charon begins, read from lines as it writes them; no namespace is needed here."""

import pytest

from ipseclab.emu.peers.strongswan_log import MOST_THREADS, Beginning, Begun, LogReader

SEND = "sending packet: from 192.0.2.1[500] to 198.51.100.2[500] (232 bytes)"
INIT = "generating IKE_SA_INIT request 0 [ SA KE No N(NATD_S_IP) N(NATD_D_IP) N(FRAG_SUP) ]"
CHILD = "generating CREATE_CHILD_SA request 2 [ N(REKEY_SA) SA No KE TSi TSr ]"
IKE = "generating CREATE_CHILD_SA request 0 [ SA No KE ]"


def line(text, thread="12", unique="1"):
    return {"thread": thread, "ikesa-name": "site", "ikesa-uniqueid": unique, "msg": text}


def begun(*texts):
    reader = LogReader()
    return [found for text in texts if (found := reader.take(line(text))) is not None]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (INIT, Beginning.HANDSHAKE),
        (CHILD, Beginning.CHILD_REKEY),
        (CHILD.replace(" KE", ""), Beginning.CHILD_REKEY),
        (IKE, Beginning.IKE_REKEY),
    ],
)
def test_it_begins_when_its_request_is_sent(text, what):
    assert begun(text) == []
    assert begun(text, SEND) == [Begun(what, "site", "1")]
    assert begun(text, SEND, SEND) == [Begun(what, "site", "1")]


@pytest.mark.parametrize(
    "text",
    [
        "generating IKE_SA_INIT response 0 [ SA KE No ]",
        "generating IKE_AUTH request 1 [ IDi AUTH SA TSi TSr ]",
        "generating CREATE_CHILD_SA request 1 [ SA No KE TSi TSr ]",  # a further CHILD_SA
        "generating CREATE_CHILD_SA response 2 [ SA No KE ]",
        "generating INFORMATIONAL request 2 [ D ]",
        "parsed CREATE_CHILD_SA request 2 [ N(REKEY_SA) SA No KE TSi TSr ]",
        "retransmit 1 of request with message ID 2",
        "",
    ],
)
def test_nothing_begins_with_anything_else(text):
    assert begun(text, SEND) == []


def test_a_request_in_fragments_begins_once():
    pieces = [f"generating CREATE_CHILD_SA request 2 [ EF({n}/2) ]" for n in (1, 2)]
    split = "splitting IKE message (1444 bytes) into 2 fragments"
    assert begun(CHILD, split, *pieces, SEND, SEND) == [Begun(Beginning.CHILD_REKEY, "site", "1")]


def test_threads_do_not_get_into_each_others_way():
    reader = LogReader()
    assert reader.take(line(CHILD, "7", "1")) is None
    assert reader.take(line(INIT, "8", "2")) is None
    assert reader.take(line(SEND, "9", "3")) is None
    assert reader.take(line(SEND, "8", "2")) == Begun(Beginning.HANDSHAKE, "site", "2")
    assert reader.take(line(SEND, "7", "1")) == Begun(Beginning.CHILD_REKEY, "site", "1")


def test_what_is_remembered_is_bounded():
    reader = LogReader()
    for number in range(10 * MOST_THREADS):
        reader.take(line(INIT, str(number)))
    assert len(reader._generated) <= MOST_THREADS
