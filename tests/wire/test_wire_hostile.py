"""Real messages cut, stretched and mutated: a WireError or a value, never anything else."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_payloads import PAYLOADS

from ipseclab.errors import WireError
from ipseclab.lab.mutate import (
    chain_wrong_lengths,
    cuts,
    length_fields,
    mutate_chain,
    mutations,
    wrong_lengths,
)
from ipseclab.lab.pcap_read import ipv4_packet, read_capture
from ipseclab.registry import (
    CertEncoding,
    EncrId,
    ExchangeType,
    KeMethod,
    PayloadType,
    ProtocolId,
    TransformType,
)
from ipseclab.wire.ip import decode_ipv4_header, decode_udp
from ipseclab.wire.message import Message, decode_message, decode_payloads, encode_payloads
from ipseclab.wire.payloads import (
    CertPayload,
    CertreqPayload,
    SaPayload,
)
from ipseclab.wire.proposal import Attribute, Proposal, Transform

VECTORS = Path(__file__).parent.parent / "vectors"

TRANSFORMS = (
    Transform(TransformType.ENCR, EncrId.ENCR_AES_CBC, 128),
    Transform(TransformType.KE, KeMethod.MODP_2048),
    Transform(TransformType(99), 7, None, (Attribute(1000, b"long"),)),
)
EVERYTHING = (
    SaPayload(
        (
            Proposal(1, ProtocolId.IKE, b"", TRANSFORMS),
            Proposal(2, ProtocolId.ESP, b"spi4", TRANSFORMS[:1]),
        )
    ),
    CertPayload(CertEncoding.X509_SIGNATURE, b"certificate"),
    CertreqPayload(CertEncoding.X509_SIGNATURE, b"h" * 20),
    *PAYLOADS[1:],
)


def captured_messages():
    """Every IKE message of both vectors, in order."""
    found = []
    for path in sorted(VECTORS.glob("*.pcapng")):
        for captured in read_capture(path):
            packet = ipv4_packet(captured)
            if packet is None:
                continue
            header = decode_ipv4_header(packet)
            segment = packet[header.header_length : header.total_length]
            source, destination, data = decode_udp(segment)
            if 4500 not in (source, destination):
                found.append(data)
            elif data[:4] == bytes(4):
                found.append(data[4:])
    return found


MESSAGES = captured_messages()
WHOLE = Message(b"I" * 8, b"R" * 8, ExchangeType.IKE_AUTH, True, False, 1, EVERYTHING).encode()


def decode_or_refuse(octets):
    """True when the octets decode; then they also encode to something that decodes the same."""
    try:
        message = decode_message(octets)
    except WireError:
        return False
    assert decode_message(message.encode()) == message
    return True


def test_the_vectors_hold_28_messages():
    assert len(MESSAGES) == 28


@pytest.mark.parametrize("octets", [*MESSAGES, WHOLE], ids=lambda octets: f"{len(octets)}")
def test_every_cut_is_refused_or_a_shorter_message(octets):
    as_sent = [cut for cut in cuts(octets) if len(cut) < 28 or cut[24:28] == octets[24:28]]
    assert len(as_sent) == len(octets)
    assert not any(decode_or_refuse(cut) for cut in as_sent)
    for cut in cuts(octets):
        decode_or_refuse(cut)


@pytest.mark.parametrize("octets", [*MESSAGES, WHOLE], ids=lambda octets: f"{len(octets)}")
def test_every_wrong_length_is_refused_or_a_value(octets):
    for wrong in wrong_lengths(octets):
        assert wrong != octets
        decode_or_refuse(wrong)


def test_length_fields_are_found_at_every_level():
    found = {field.what for field in length_fields(WHOLE)}
    assert found == {
        "message length",
        "payload length",
        "proposal length",
        "proposal SPI size",
        "number of transforms",
        "transform length",
        "attribute length or value",
        "notify SPI size",
        "delete SPI size",
        "number of SPIs",
        "number of selectors",
        "selector length",
        "attribute length",
        "EAP length",
        "fragment number",
        "total fragments",
    }


@pytest.mark.parametrize("seed", range(4))
def test_mutated_messages_are_refused_or_a_value(seed):
    rng = random.Random(seed)
    decoded = sum(
        decode_or_refuse(octets)
        for original in (WHOLE, MESSAGES[0])
        for octets in mutations(original, rng, 500)
    )
    # Mutations must reach both sides of the decoder's judgement to be worth anything.
    assert 50 < decoded < 950


def test_mutated_inner_chains_are_refused_or_a_value():
    rng = random.Random(7)
    first, chain = encode_payloads(EVERYTHING[:-1])
    wrong = [(first, octets) for octets in chain_wrong_lengths(first, chain)]
    wrong += [mutate_chain(first, chain, rng) for _ in range(1000)]
    refused = 0
    for kind, octets in wrong:
        try:
            decode_payloads(PayloadType(kind), octets)
        except WireError:
            refused += 1
    assert 0 < refused < len(wrong)


def test_a_mutation_is_the_seed_s():
    one = list(mutations(WHOLE, random.Random(3), 50))
    assert one == list(mutations(WHOLE, random.Random(3), 50))
    assert one != list(mutations(WHOLE, random.Random(4), 50))


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_random_octets_are_refused_or_a_value(octets):
    decode_or_refuse(octets)


@given(st.integers(0, 255), st.binary(max_size=300))
@settings(max_examples=300)
def test_random_chains_are_refused_or_a_value(first, octets):
    header = WHOLE[:16] + bytes([first]) + WHOLE[17:24] + (28 + len(octets)).to_bytes(4, "big")
    decode_or_refuse(header + octets)
