"""EAP-TLS: both versions, fragments, certificates that are refused, EAP alone, hostile peers."""

from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import CONNECTION, make_pair
from transcript import opened

from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.config import ANY_IDENTITY, Identity, Retransmission
from ipseclab.ike.credentials import LAB_EPOCH, CertificateAuth, CertificateDemand
from ipseclab.ike.eap.settings import EapAuth, EapDemand, EapOnly, EapTls
from ipseclab.ike.eap.tls import MAX_FRAGMENTS, Fragments, TlsPeer, TlsServer, TlsSetting
from ipseclab.lab.pki import Subject, Validity, issue, make_authority, make_key
from ipseclab.registry import EapCode, EapType, ExchangeType, IdType
from ipseclab.wire.payloads import EapPayload

ALICE = Identity(IdType.ID_RFC822_ADDR, b"alice@example.org")
GATE = Identity(IdType.ID_FQDN, b"gate.example.org")
NOW = LAB_EPOCH + timedelta(days=1)
YEAR = Validity.of_days(LAB_EPOCH, 365)


def authority(name):
    rng = Random(f"EAP-TLS {name}")
    return make_authority(name, make_key("ecdsa-p256", rng), YEAR, rng=rng)


def credential(issuer, identity, kind="ecdsa-p256"):
    rng = Random(f"EAP-TLS {identity} {kind}")
    subject = Subject(str(identity), (identity,))
    made = issue(issuer, subject, make_key(kind, rng), YEAR, rng=rng)
    return CertificateAuth(made.private, made.chain)


@pytest.fixture(scope="module")
def certified():
    """Root's demand, then the credentials of client and gateway."""
    root = authority("root")
    demand = CertificateDemand((root.certificate,))
    return demand, credential(root, ALICE), credential(root, GATE)


def tls_pair(certified, *, client=None, server=None, alone=False, **options):
    """A client with a certificate at a gateway with one; changes of `EapTls` for each end."""
    demand, alice, gate = certified
    own = replace(EapTls(alice, demand), **(client or {}))
    of_gate = replace(EapTls(gate, demand), **(server or {}))
    return make_pair(
        a={
            "own_id": ALICE,
            "peer_id": GATE,
            "own_auth": (EapAuth((EapType.TLS,), tls=own),),
            "peer_auth": (EapOnly(),) if alone else (demand,),
        },
        b={
            "own_id": GATE,
            "peer_id": ANY_IDENTITY,
            "own_auth": (EapOnly(),) if alone else (gate,),
            "peer_auth": (EapDemand((EapType.TLS,), tls=of_gate),),
        },
        **options,
    )


def eap_packets(pair):
    found = (opened(pair, sent)[1] for sent in pair.sent if sent.is_ike(ExchangeType.IKE_AUTH))
    return [p for payloads in found for p in payloads if isinstance(p, EapPayload)]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("alone", [False, True])
def test_both_versions_with_and_without_a_certificate_in_ike(certified, version, alone):
    pair = tls_pair(certified, server={"versions": (version,)}, alone=alone)
    pair.connect()
    pair.agreed()
    assert max(len(p.data) for p in eap_packets(pair)) <= 1024 + 6


@pytest.mark.parametrize("kind", ["rsa-2048", "ed25519", "ecdsa-p384"])
def test_keys_of_each_kind_in_the_clients_certificate(certified, kind):
    root = authority("root")
    pair = tls_pair(certified, client={"credential": credential(root, ALICE, kind)})
    pair.connect()
    pair.agreed()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_small_fragments_lost_and_repeated(certified, version):
    small = {"fragment": 200, "versions": (version,)}
    quick = Retransmission(timeout=0.5, tries=6)
    pair = tls_pair(certified, client=small, server=small, both={"retransmission": quick})
    seen = []

    def fate(sent):
        seen.append(sent)
        return () if len(seen) % 5 == 2 else (0.0, 0.002)

    pair.fate = fate
    pair.do(0, "initiate", CONNECTION)
    pair.run(110.0)
    pair.agreed()
    assert len(eap_packets(pair)) > 20


def test_client_with_the_certificate_of_another(certified):
    mallory = Identity(IdType.ID_RFC822_ADDR, b"mallory@example.org")
    pair = tls_pair(certified, client={"credential": credential(authority("root"), mallory)})
    pair.connect()
    assert eap_packets(pair)[-1].code == EapCode.FAILURE
    (failed,) = pair.events("auth_failed", 1)
    assert "is not for ID_RFC822_ADDR alice@example.org" in failed.details["reason"]
    assert not pair.events("ike_established")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_certificates_of_an_authority_that_the_other_end_does_not_trust(certified, version):
    stranger = authority("stranger")
    for end in ("client", "server"):
        identity = ALICE if end == "client" else GATE
        changed = {"credential": credential(stranger, identity), "versions": (version,)}
        pair = tls_pair(certified, **{end: changed})
        pair.connect()
        assert not pair.events("ike_established")
        reasons = [str(n.details["reason"]) for n in pair.events("auth_failed")]
        assert any("is not a trusted authority" in reason for reason in reasons), reasons
        pair.run(400.0)
        for gateway in pair.gateways:
            assert not any({**gateway.ike.table_sizes, "counters": 0}.values())


def test_versions_that_do_not_meet_are_a_failure(certified):
    pair = tls_pair(certified, client={"versions": ("1.2",)}, server={"versions": ("1.3",)})
    pair.connect()
    assert not pair.events("ike_established")
    assert pair.events("auth_failed", 0)
    assert pair.b.ike.half_open == 0


def test_expired_certificate_by_the_endpoints_own_clock(certified):
    pair = tls_pair(certified, alone=True)
    pair.now = timedelta(days=400).total_seconds()
    pair.connect()
    assert any("expired at" in str(n.details["reason"]) for n in pair.events("auth_failed"))


def test_both_ends_have_the_same_key(certified):
    demand, alice, gate = certified
    for version in ("1.2", "1.3"):
        peer = TlsPeer(TlsSetting(EapTls(alice, demand, (version,)), GATE, NOW))
        server = TlsServer(TlsSetting(EapTls(gate, demand), ALICE, NOW))
        packet = server.start(0)
        while packet is not None:
            assert not server.key
            packet = server.answer(0, peer.answer(0, packet))
        assert server.succeeded
        assert peer.done
        assert len(peer.key) == 64
        assert peer.key == server.key


def test_fragments_without_end_are_refused():
    fragments = Fragments(100)
    for _ in range(MAX_FRAGMENTS):
        assert fragments.receive(b"\x40x") is None
    with pytest.raises(AuthenticationFailed, match="octets in a flight"):
        fragments.receive(b"\x40x")


def test_flight_without_end_is_refused():
    fragments = Fragments(100)
    assert fragments.receive(b"\x40" + bytes(40_000)) is None
    with pytest.raises(AuthenticationFailed, match="octets in a flight"):
        fragments.receive(b"\x40" + bytes(40_000))


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_flights_survive_being_cut(flight, size):
    sender, receiver = Fragments(size), Fragments(size)
    got = receiver.receive(sender.send(flight)) if len(flight) < size * MAX_FRAGMENTS else flight
    while got is None:
        got = receiver.receive(sender.following())
    assert got == flight


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_mutated_conversations_raise_nothing_but_refusals(certified, seed):
    """TLS draws randomness of its own, so that Hypothesis gives a seed and no more."""
    demand, alice, gate = certified
    rng = Random(seed)
    versions = (rng.choice(["1.2", "1.3"]),)
    peer = TlsPeer(TlsSetting(EapTls(alice, demand, versions, fragment=400), GATE, NOW))
    server = TlsServer(TlsSetting(EapTls(gate, demand, versions, fragment=500), ALICE, NOW))
    packet, to_peer = server.start(0), True
    for _ in range(40):
        if rng.random() < 0.15:
            octets = bytearray(packet)
            octets[rng.randrange(len(octets))] ^= rng.randrange(1, 256)
            packet = bytes(octets[: rng.randrange(len(octets) + 1)])
        try:
            answer = (peer if to_peer else server).answer(0, packet)
        except AuthenticationFailed:
            return
        if answer is None:
            break
        packet, to_peer = answer, not to_peer
    if server.succeeded and peer.done:
        assert server.key == peer.key
