"""RFC 7383 rules that need no loss: which messages are cut, and what the fragments' headers say."""

import pytest
from forge import ike_sa, receive
from pair import make_pair
from transcript import ike_messages, ike_octets

from ipseclab.ike.proposals import parse_ike_proposal
from ipseclab.ike.protection import Envelope
from ipseclab.registry import ExchangeType, NotifyType, PayloadType
from ipseclab.wire.message import decode_message
from ipseclab.wire.payloads import NotifyPayload, SkfPayload, VendorPayload


@pytest.mark.rfc("7383", "2.2", "MUST NOT", "no-key-no-fragments")
def test_ike_sa_init_is_never_cut():
    proposals = (parse_ike_proposal("aes128gcm16-prfsha256-mlkem1024"),)
    pair = make_pair(both={"fragment_size": 576, "ike_proposals": proposals})
    pair.connect()
    inits = [s for s in ike_messages(pair) if s.is_ike(ExchangeType.IKE_SA_INIT)]
    assert len(inits) == 2
    assert min(len(s.item.data) for s in inits) > 1500
    pair.agreed()


@pytest.mark.rfc("7383", "2.3", "MUST", "notify-form")
def test_the_notification_is_empty():
    pair = make_pair()
    pair.connect()
    kind = NotifyType.IKEV2_FRAGMENTATION_SUPPORTED
    for sent in pair.sent[:2]:
        assert decode_message(ike_octets(sent)).notify(kind) == NotifyPayload(kind)


def fragments_of(pair, octets=600):
    sa = ike_sa(pair, 0)
    number = sa.next_message_id
    envelope = Envelope(sa.spi_i, sa.spi_r, ExchangeType.INFORMATIONAL, True, False, number)
    return sa.protection.seal_to_fit(envelope, (VendorPayload(bytes(octets)),), 200)


@pytest.mark.rfc("7383", "2.5", "MUST", "same-header")
def test_fragments_share_the_header_of_their_message():
    pair = make_pair()
    pair.connect()
    parts = fragments_of(pair)
    assert len(parts) > 3
    assert len({part[:24] for part in parts}) == 1  # all but the length
    assert {part[16] for part in parts} == {PayloadType.SKF}
    for part in parts:
        assert int.from_bytes(part[24:28], "big") == len(part)


@pytest.mark.rfc("7383", "2.5", "MUST", "last-payload")
@pytest.mark.parametrize("behind", [b"more", bytes([0, 0, 0, 4])])
def test_a_fragment_is_the_last_payload(behind):
    pair = make_pair()
    pair.connect()
    first = fragments_of(pair)[0]
    assert isinstance(decode_message(first).payloads[-1], SkfPayload)
    longer = first[:24] + (len(first) + len(behind)).to_bytes(4, "big") + first[28:] + behind
    assert receive(pair, 1, longer) == []
    assert pair.b.counters["ike.malformed"] == 1
    assert pair.b.ike.table_sizes["fragments"] == 0
