"""Quick crash detection (RFC 6290): tokens given and taken, shown after a restart, believed only
where they fit; both roles, lost messages, hostile values, and how long it takes without."""

from dataclasses import replace

import pytest
from forge import forge, ike_sa, path_to, receive
from pair import CONNECTION, Pair, make_pair
from post import Post
from transcript import ike_octets, transcript

from ipseclab.ike.config import IkeLimits
from ipseclab.ike.configuration import AddressPool, AddressRequest, Provision
from ipseclab.ike.sa import IkeState
from ipseclab.outputs import InternalConfiguration
from ipseclab.registry import ExchangeType, NotifyType, ProtocolId
from ipseclab.wire.message import Message, decode_message
from ipseclab.wire.payloads import NotifyPayload
from ipseclab.wire.selector import TrafficSelector

QCD = NotifyType.QUICK_CRASH_DETECTION
WITH = {"crash_detection": True, "liveness": 10.0}
SECRETS = (b"secret of a, thirty-two octets..", b"secret of b, thirty-two octets..")


def crash_pair(both=WITH, secrets=SECRETS, limits=None, seed=1, **options):
    pair = make_pair(both=both, **options)
    limits = limits if limits is not None else IkeLimits()
    configs = [replace(config, ike=replace(config.ike, secret=secret, limits=limits))
               for config, secret in zip(pair.configs, secrets, strict=True)]  # fmt: skip
    return Pair(tuple(configs), seed=seed)


def restart(pair, side, seed=77):
    """The gateway forgets all but its configuration."""
    pair.gateways[side] = Pair(pair.configs, seed=seed).gateways[side]


def tokens(pair):
    return [ike_sa(pair, side).peer_token for side in (0, 1)]


def detected_after(pair, crashed, limit=400.0):
    """Seconds from the crash of one end until the other has new SAs with it."""
    restart(pair, crashed)
    begin = pair.now
    while pair.now < begin + limit:
        pair.run(0.1)
        if pair.ike_spis(crashed) and pair.ike_spis(0) == pair.ike_spis(1):
            return pair.now - begin
        # Someone uses the tunnel: what a user waits for.
        pair.send(1 - crashed)
    raise AssertionError("never")


def test_each_end_gives_the_other_a_token():
    pair = crash_pair()
    pair.connect()
    lines = transcript(pair)
    assert lines[2].endswith("SA, TSi, TSr, N(QUICK_CRASH_DETECTION)}")
    assert lines[3].endswith("SA, TSi, TSr, N(QUICK_CRASH_DETECTION)}")
    first, second = tokens(pair)
    assert len(first) == len(second) == 32
    assert first != second
    pair.agreed()


@pytest.mark.parametrize("crashed", [0, 1])
def test_peer_of_one_that_restarted_knows_it_at_once(crashed):
    pair = crash_pair()
    pair.connect()
    quick = detected_after(pair, crashed)
    assert pair.events("crash_detected", 1 - crashed)
    assert quick < 12.0  # the liveness interval, and a handshake
    pair.run(20.0)
    pair.agreed()
    # Without tokens its requests have to be given up first.
    slow = make_pair(both={"liveness": 10.0})
    slow.connect()
    assert detected_after(slow, crashed) > 100.0


def test_rekeyed_ike_sa_has_tokens_of_its_own():
    pair = crash_pair()
    pair.connect()
    before = tokens(pair)
    for side in (0, 1):
        pair.do(side, "rekey_ike", CONNECTION)
        pair.run(8.0)
        assert not set(tokens(pair)) & set(before)
        assert all(tokens(pair))
        before = tokens(pair)
    assert detected_after(pair, 1) < 12.0


def test_restart_that_comes_with_another_secret_is_not_believed():
    pair = crash_pair()
    pair.connect()
    other = crash_pair(secrets=(SECRETS[0], b"?" * 32), seed=5)
    pair.gateways[1] = other.b
    pair.run(15.0)
    assert not pair.events("crash_detected")
    assert pair.a.ike.counters["ike.bad_token"]
    assert pair.ike_spis(0)


@pytest.mark.rfc("7296", "2.21.4", "MAY", "answer-request")
def test_end_without_a_secret_gives_no_token_and_answers_nothing():
    pair = crash_pair(secrets=(b"", b""))
    pair.connect()
    assert "QUICK" not in "".join(transcript(pair))
    restart(pair, 1)
    first = len(pair.sent)
    pair.run(30.0)
    assert {sent.sender for sent in pair.sent[first:]} == {0}


def test_live_ike_sa_never_shows_its_token():
    pair = crash_pair()
    pair.connect()
    sa = ike_sa(pair, 1)
    for initiator in (False, True):
        for spis in ((sa.spi_i, sa.spi_r), (sa.spi_r, sa.spi_i)):
            probe = Message(*spis, ExchangeType.INFORMATIONAL, initiator, False, 9, ())
            assert not receive(pair, 1, probe.encode())
            assert not receive(pair, 0, probe.encode())


@pytest.mark.parametrize("refused", [False, True])
def test_ike_sa_that_a_rekey_has_asked_for_does_not_show_its_token(refused):
    """The peer may have made it, and a request on it may come before the rekey's response; not so
    any more when the rekey came to nothing."""
    pair = crash_pair()
    pair.connect()
    post = Post(pair)
    if refused:
        pair.do(0, "create_child", CONNECTION)
    pair.do(1, "rekey_ike", CONNECTION)
    asked = ike_sa(pair, 1).offered_spi
    probe = Message(asked, bytes(range(8)), ExchangeType.INFORMATIONAL, False, False, 0, ())
    assert not receive(pair, 1, probe.encode())
    post.deliver("b CREATE_CHILD_SA request")
    post.deliver("a CREATE_CHILD_SA response")
    assert not pair.b.ike.table_sizes["offered_spis"]
    assert bool(receive(pair, 1, probe.encode())) is refused


def unknown(number, response=False):
    spis = number.to_bytes(8, "big"), (number + 1).to_bytes(8, "big")
    return Message(*spis, ExchangeType.INFORMATIONAL, True, response, 3, ()).encode()


@pytest.mark.rfc("7296", "2.21.4", "MAY", "answer-request")
@pytest.mark.rfc("7296", "2.21.4", "MUST", "answer-copied")
@pytest.mark.rfc("7296", "2.21.4", "MUST NOT", "answer-protected")
@pytest.mark.rfc("7296", "2.21.4", "MUST", "answer-says")
def test_answer_to_an_unknown_ike_sa():
    pair = crash_pair()
    (answer,) = receive(pair, 1, unknown(7), path_to(1))
    message = decode_message(ike_octets(answer))
    assert (message.response, message.initiator, message.message_id) == (True, False, 3)
    request = decode_message(unknown(7))
    assert (message.spi_i, message.spi_r) == (request.spi_i, request.spi_r)
    assert answer.item.path == path_to(1)
    assert message.exchange == ExchangeType.INFORMATIONAL
    assert [n.notify_type for n in message.payloads] == [NotifyType.INVALID_IKE_SPI, QCD]
    assert message.payloads[1].protocol == ProtocolId.IKE
    assert not receive(pair, 1, unknown(7, response=True), path_to(1))
    assert len(ike_octets(answer)) <= 28 + 8 + 8 + 32


def test_answers_are_limited():
    pair = crash_pair(limits=IkeLimits(stateless_answers=3))
    answers = [answer for n in range(1, 50) for answer in receive(pair, 1, unknown(n), path_to(1))]
    assert len(answers) == 3
    assert pair.b.ike.counters["ike.token_withheld"] == 46
    pair.run(1.5)
    assert receive(pair, 1, unknown(99), path_to(1))


def in_clear(pair, *notifies, sa=None):
    sa = sa if sa is not None else ike_sa(pair, 0)
    return Message(
        sa.spi_i, sa.spi_r, ExchangeType.INFORMATIONAL, False, True, 2, notifies
    ).encode()


@pytest.mark.parametrize("hostile", ["no token", "wrong", "short", "no error", "empty"])
def test_answer_in_the_clear_without_the_right_token_is_dropped(hostile):
    pair = crash_pair()
    pair.connect()
    good = ike_sa(pair, 0).peer_token
    lost = NotifyPayload(NotifyType.INVALID_IKE_SPI)
    notifies = {
        "no token": (lost,),
        "wrong": (lost, NotifyPayload(QCD, bytes([good[0] ^ 1]) + good[1:])),
        "short": (lost, NotifyPayload(QCD, good[:16])),
        "no error": (NotifyPayload(QCD, good),),
        "empty": (lost, NotifyPayload(QCD, b"")),
    }[hostile]
    assert not receive(pair, 0, in_clear(pair, *notifies), path_to(0))
    pair.agreed()


def test_token_of_a_size_that_is_forbidden_is_not_kept():
    pair = crash_pair()
    pair.connect()
    good = ike_sa(pair, 1).peer_token
    for size in (0, 15, 129):
        said = NotifyPayload(QCD, b"x" * size, ProtocolId.IKE)
        receive(pair, 1, forge(pair, 0, ExchangeType.INFORMATIONAL, said))
        ike_sa(pair, 0).next_message_id += 1
        assert ike_sa(pair, 1).peer_token == good


def test_gateway_that_restarts_loses_its_sas_and_keeps_its_secret():
    pair = crash_pair()
    pair.connect()
    pair.do(1, "restart")
    assert pair.events("restarted", 1)
    assert not pair.b.ike.ike_sas
    assert not pair.b.datapath.table_sizes["sad"]
    pair.run(15.0)
    assert pair.events("crash_detected", 0)
    pair.agreed()


def test_client_that_restarts_gives_up_its_address():
    pool = AddressPool.of_network("10.9.0.0/24")
    pair = make_pair(
        a={
            "own_ts": (TrafficSelector.of_network("0.0.0.0/0"),),
            "address_request": AddressRequest(),
        },
        b={
            "peer_ts": (TrafficSelector.of_network("10.9.0.0/24"),),
            "provision": Provision((pool,)),
        },
    )
    pair.connect()
    (taken,) = [p.local for p in pair.a.datapath.spd.policies]
    outputs = pair.a.restart(pair.now)
    assert InternalConfiguration(CONNECTION) in outputs
    (now_free,) = [p.local for p in pair.a.datapath.spd.policies]
    assert [str(ts) for ts in taken] == ["10.9.0.1/32"]
    assert [str(ts) for ts in now_free] == ["0.0.0.0/0"]


def test_lost_answers_are_only_slower():
    pair = crash_pair()
    pair.connect()
    restart(pair, 1)
    shown = []

    def fate(sent):
        if sent.sender == 1 and sent.header and sent.header.response and len(shown) < 2:
            shown.append(sent)
            return ()
        return (0.0, 0.004)

    pair.fate = fate
    pair.run(60.0)
    assert len(pair.events("crash_detected", 0)) == 1
    assert [sa.state for sa in pair.a.ike.ike_sas] == [IkeState.ESTABLISHED]
    pair.fate = lambda sent: (0.0,)
    pair.run(1.0)
    pair.agreed()


def test_with_a_ticket_the_way_back_is_short():
    pair = crash_pair(both={**WITH, "resumption": 3600.0})
    pair.connect()
    restart(pair, 1)
    pair.run(30.0)
    assert pair.events("ike_resumed", 1)
    pair.agreed()


def test_same_seed_same_octets():
    pairs = [crash_pair(), crash_pair()]
    for pair in pairs:
        pair.connect()
        restart(pair, 1)
        pair.run(40.0)
    assert [sent.item for sent in pairs[0].sent] == [sent.item for sent in pairs[1].sent]
