"""Two recorded exchanges of strongSwan: read, opened, and every key of theirs worked out again.

tests/vectors: `X.pcapng` is the capture, `X.keys.json` every secret in the order in which 192.0.2.1
derived it. Only the Diffie-Hellman secrets and the pre-shared key are taken from there; the rest is
computed here and compared.
"""

import json
from collections import defaultdict
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from ipseclab.crypto.protection import Suite
from ipseclab.ike.keys import (
    IkeKeys,
    child_keys,
    ike_keys,
    psk_auth,
    rekey_skeyseed,
    signed_octets,
    skeyseed,
)
from ipseclab.ike.proposals import prf_of, suite_of
from ipseclab.lab.pcap_read import ipv4_packet, read_capture
from ipseclab.registry import ExchangeType, IpProtocol, ProtocolId
from ipseclab.wire.ip import checksum, decode_ipv4_header, decode_udp
from ipseclab.wire.message import Message, decode_message, decode_payloads, encode_payloads
from ipseclab.wire.payloads import (
    AuthPayload,
    DeletePayload,
    IdiPayload,
    IdrPayload,
    NoncePayload,
    SaPayload,
    SkPayload,
)

VECTORS = Path(__file__).parent.parent / "vectors"
NAMES = ("cbc128_modp2048", "gcm256_x25519")


class Datagram(NamedTuple):
    source: str
    destination: str
    data: bytes
    is_esp: bool


def datagrams(name):
    found = []
    for captured in read_capture(VECTORS / f"{name}.pcapng"):
        packet = ipv4_packet(captured)
        if packet is None:
            continue
        header = decode_ipv4_header(packet)
        assert header.protocol == IpProtocol.UDP
        ends = str(ip_address(header.source)), str(ip_address(header.destination))
        source, destination, data = decode_udp(packet[header.header_length : header.total_length])
        if (source, destination) == (500, 500):
            found.append(Datagram(*ends, data, is_esp=False))
            continue
        assert (source, destination) == (4500, 4500)
        is_esp = data[:4] != bytes(4)
        found.append(Datagram(*ends, data if is_esp else data[4:], is_esp))
    return found


def recorded(name):
    """The recorded values by item, each list in order; ESP SAs as (SPI, source, destination)."""
    events = json.loads((VECTORS / f"{name}.keys.json").read_text())["events"]
    items = defaultdict(list)
    for event in events:
        if event["item"] == "ESP SA":
            items["ESP SA"].append((event["spi"], event["src"], event["dst"]))
        else:
            items[event["item"]].append(bytes.fromhex(event["hex"]))
    return items


class Exchange(NamedTuple):
    request: Message
    response: Message
    request_octets: bytes
    response_octets: bytes


class IkeSaView(NamedTuple):
    """What an observer with all secrets knows of an IKE_SA."""

    suite: Suite
    keys: IkeKeys
    prf: object

    def open(self, octets, message):
        (sk,) = message.payloads
        assert isinstance(sk, SkPayload)
        encr, integ = (
            (self.keys.sk_ei, self.keys.sk_ai)
            if message.initiator
            else (self.keys.sk_er, self.keys.sk_ar)
        )
        associated = octets[: len(octets) - len(sk.body)]
        plaintext = self.suite.keyed(encr, integ).open(associated, sk.body)
        inner = plaintext[: len(plaintext) - 1 - plaintext[-1]]
        payloads = decode_payloads(sk.first, inner)
        assert encode_payloads(payloads) == (sk.first, inner)
        return message_with(message, payloads)


def message_with(message, payloads):
    head = (message.spi_i, message.spi_r, message.exchange, message.initiator, message.response)
    return Message(*head, message.message_id, payloads)


class Recording:
    """A whole recording, followed from the first message to the last."""

    def __init__(self, name):
        self.known = recorded(name)
        self.datagrams = datagrams(name)
        self.esp = {}
        self.opened_messages = self.opened_packets = 0
        octets = [datagram.data for datagram in self.datagrams if not datagram.is_esp]
        exchanges = [
            Exchange(decode_message(one), decode_message(two), one, two)
            for one, two in zip(octets[::2], octets[1::2], strict=True)
        ]
        self.kinds = [exchange.request.exchange for exchange in exchanges]
        self.current = self.follow_init(exchanges[0])
        for exchange in exchanges[1:]:
            self.follow(exchange)

    def next(self, item):
        return self.known[item].pop(0)

    def compare_ike_keys(self, seed, keys):
        assert seed == self.next("SKEYSEED")
        for name in ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr"):
            key = getattr(keys, name)
            assert key == (self.next(name.capitalize()) if key else b""), name

    def follow_init(self, exchange):
        self.init = exchange
        nonces = nonces_of(exchange.request, exchange.response)
        chosen = exchange.response.find(SaPayload).proposals[0].transforms
        prf, suite = prf_of(chosen), suite_of(chosen)
        seed = skeyseed(prf, *nonces, self.next("shared Diffie Hellman secret"))
        spis = exchange.response.spi_i, exchange.response.spi_r
        keys = ike_keys(prf, suite, seed, nonces, spis)
        self.compare_ike_keys(seed, keys)
        self.init_nonces = nonces
        return IkeSaView(suite, keys, prf)

    def follow(self, exchange):
        request = self.current.open(exchange.request_octets, exchange.request)
        response = self.current.open(exchange.response_octets, exchange.response)
        self.opened_messages += 2
        if request.exchange == ExchangeType.IKE_AUTH:
            self.check_auth(request, response)
            self.follow_child(request, response, self.init_nonces, b"")
        elif request.exchange == ExchangeType.CREATE_CHILD_SA:
            self.follow_create(request, response)
        elif request.find(DeletePayload).protocol == ProtocolId.IKE and hasattr(self, "successor"):
            self.current = self.successor

    def follow_create(self, request, response):
        nonces = nonces_of(request, response)
        offered, chosen = (message.find(SaPayload).proposals[0] for message in (request, response))
        if chosen.protocol == ProtocolId.ESP:
            self.follow_child(request, response, nonces, self.next("DH secret"))
            return
        old = self.current
        prf, suite = prf_of(chosen.transforms), suite_of(chosen.transforms)
        shared = self.next("shared Diffie Hellman secret")
        seed = rekey_skeyseed(old.prf, old.keys.sk_d, *nonces, shared)
        keys = ike_keys(prf, suite, seed, nonces, (offered.spi, chosen.spi))
        self.compare_ike_keys(seed, keys)
        self.successor = IkeSaView(suite, keys, prf)

    def check_auth(self, request, response):
        keys, prf = self.current.keys, self.current.prf
        nonce_i, nonce_r = self.init_nonces
        psk = self.next("secret")
        for message, own, sk_p, nonce, id_class in (
            (request, self.init.request_octets, keys.sk_pi, nonce_r, IdiPayload),
            (response, self.init.response_octets, keys.sk_pr, nonce_i, IdrPayload),
        ):
            octets = signed_octets(prf, own, nonce, sk_p, message.find(id_class).encode())
            assert message.find(AuthPayload).data == psk_auth(prf, psk, octets)

    def follow_child(self, request, response, nonces, shared):
        offered, chosen = (message.find(SaPayload).proposals[0] for message in (request, response))
        suite = suite_of(chosen.transforms)
        keys = child_keys(self.current.prf, suite, self.current.keys.sk_d, nonces, shared)
        assert keys.encr_i == self.next("encryption initiator key")
        assert keys.encr_r == self.next("encryption responder key")
        if suite.integrity is not None:
            assert keys.integ_i == self.next("integrity initiator key")
            assert keys.integ_r == self.next("integrity responder key")
        # An SPI is its receiver's: the responder's carries what the initiator sends.
        assert (offered.spi.hex(), "192.0.2.2", "192.0.2.1") in self.known["ESP SA"]
        assert (chosen.spi.hex(), "192.0.2.1", "192.0.2.2") in self.known["ESP SA"]
        self.esp[chosen.spi] = suite.keyed(keys.encr_i, keys.integ_i)
        self.esp[offered.spi] = suite.keyed(keys.encr_r, keys.integ_r)

    def open_esp(self, datagram):
        esp = datagram.data
        plaintext = self.esp[esp[:4]].open(esp[:8], esp[8:])
        padding, next_header = plaintext[-2:]
        assert next_header == IpProtocol.IPV4
        end = len(plaintext) - 2 - padding
        assert plaintext[end:-2] == bytes(range(1, padding + 1))
        return plaintext[:end]


def nonces_of(request, response):
    return request.find(NoncePayload).data, response.find(NoncePayload).data


@pytest.fixture(scope="module", params=NAMES)
def recording(request):
    return Recording(request.param)


def test_every_message_re_encodes_octet_for_octet(recording):
    messages = [datagram.data for datagram in recording.datagrams if not datagram.is_esp]
    assert len(messages) == 14
    for octets in messages:
        assert decode_message(octets).encode() == octets


def test_the_exchanges_are_those_of_the_recording(recording):
    assert [kind.name for kind in recording.kinds] == [
        "IKE_SA_INIT",
        "IKE_AUTH",
        "CREATE_CHILD_SA",
        "INFORMATIONAL",
        "CREATE_CHILD_SA",
        "INFORMATIONAL",
        "INFORMATIONAL",
    ]


def test_every_sk_payload_opens_and_every_key_is_as_recorded(recording):
    # Following the recording compares each value as it comes; nothing recorded may be left over.
    assert recording.opened_messages == 12
    left = {item for item, values in recording.known.items() if values}
    # strongSwan looked up the pre-shared key twice, and logged each ESP SA.
    assert left == {"secret", "ESP SA"}
    assert len(recording.known["secret"]) == 1


@pytest.mark.rfc("7296", "2.17", "MUST", "keymat")
def test_every_esp_packet_opens_to_a_ping(recording):
    packets = [datagram for datagram in recording.datagrams if datagram.is_esp]
    assert len(packets) == 10
    for datagram in packets:
        inner = recording.open_esp(datagram)
        header = decode_ipv4_header(inner)
        assert header.total_length == len(inner) == 84
        assert header.protocol == IpProtocol.ICMP
        assert checksum(inner[: header.header_length]) == 0
        assert checksum(inner[header.header_length :]) == 0
        inside = str(ip_address(header.source)), str(ip_address(header.destination))
        expected = "10.1.0.1", "10.2.0.1"
        assert inside == (expected if datagram.source == "192.0.2.1" else expected[::-1])
