"""Metrics on traces written by hand, where every right answer can be counted on the fingers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.lab.plan import Probe
from ipseclab.lab.trace import TraceRecord
from ipseclab.measure.captured import Load
from ipseclab.measure.metrics import METRICS, measure, unit_of
from ipseclab.measure.overhead import Overhead
from ipseclab.measure.pieces import Crossings
from ipseclab.measure.rekey_metrics import TRANSIT_LIMIT, _LatestFree
from ipseclab.measure.view import RunView
from ipseclab.registry import IpProtocol


def record(t, node, event, **fields):
    return TraceRecord(t, node, event, fields)


def ike(
    t, node, exchange, message_id=0, request=True, retransmission=0, octets=100, event="ike_sent"
):
    return record(
        t,
        node,
        event,
        exchange=exchange,
        message_id=message_id,
        request=request,
        octets=octets,
        spi_i="aa",
        spi_r="bb",
        retransmission=retransmission,
    )


def ready(t, node, spi_in, spi_out, rekeys=None):
    return record(
        t, node, "child_ready", connection="c", spi_in=spi_in, spi_out=spi_out, rekeys=rekeys
    )


def gone(t, node, spi_in, spi_out, reason="rekeyed"):
    return record(
        t, node, "child_gone", connection="c", spi_in=spi_in, spi_out=spi_out, reason=reason
    )


HANDSHAKE = [
    ike(0.0, "a", "IKE_SA_INIT", octets=300),
    ike(0.1, "b", "IKE_SA_INIT", request=False, octets=310),
    ike(0.2, "a", "IKE_AUTH", 1, octets=250),
    ike(0.3, "b", "IKE_AUTH", 1, request=False, octets=240),
    ready(0.3, "b", "02", "01"),
    ready(0.4, "a", "01", "02"),
]
REKEY = [
    record(2.0, "a", "rekey_started", kind="child", old="01"),
    ike(2.0, "a", "CREATE_CHILD_SA", 2),
    ike(2.1, "b", "CREATE_CHILD_SA", 2, request=False),
    ready(2.1, "b", "04", "03", rekeys="02"),
    ready(2.2, "a", "03", "04", rekeys="01"),
    gone(2.3, "b", "02", "01"),
    gone(2.4, "a", "01", "02"),
]


def probe(times, lost=(), delay=0.05, flow="p"):
    for sequence, t in enumerate(times):
        yield record(t, "h1", "probe_sent", flow=flow, sequence=sequence, octets=64)
        if sequence not in lost:
            yield record(t + delay, "h2", "probe_received", flow=flow, sequence=sequence, octets=64)


def grid(start, end, period):
    return [start + i * period for i in range(round((end - start) / period))]


def values(*parts, **more):
    return measure(RunView.of([r for part in parts for r in part], **more))


def test_an_empty_run_has_counts_of_zero_and_nothing_else():
    found = values([])
    assert {name for name, value in found.items() if value is not None} == {
        "rekeys",
        "retransmissions",
        "ike_octets",
        "ike_messages",
        "ike_fragments",
    }


def test_handshake_time_ends_when_both_ends_are_ready():
    assert values(HANDSHAKE)["handshake_time"] == pytest.approx(0.4)


def test_handshake_time_waits_for_the_slower_end():
    late = [*HANDSHAKE[:-2], ready(0.9, "b", "02", "01"), HANDSHAKE[-1]]
    assert values(late)["handshake_time"] == pytest.approx(0.9)


def test_handshake_time_counts_from_the_first_sending_of_a_retransmitted_request():
    again = ike(0.05, "a", "IKE_SA_INIT", retransmission=1)
    found = values(HANDSHAKE, [again])
    assert found["handshake_time"] == pytest.approx(0.4)
    assert found["retransmissions"] == 1


def test_handshake_time_of_a_peer_that_says_when_it_starts():
    """strongSwan, which writes nothing else of its messages."""
    others = [r for r in HANDSHAKE if r.event != "ike_sent" or r.node != "a"]
    started = [record(t, "a", "ike_started", connection="c") for t in (0.05, 0.15)]
    found = values([*started, *others])
    assert found["handshake_time"] == pytest.approx(0.35)
    assert found["resume_time"] is None


def test_handshake_time_with_a_peer_that_writes_no_trace():
    ours = [r for r in HANDSHAKE if r.node == "a"]
    heard = [
        ike(0.2, "a", "IKE_SA_INIT", request=False, octets=310, event="ike_received"),
        ike(0.4, "a", "IKE_AUTH", 1, request=False, octets=240, event="ike_received"),
    ]
    found = values(ours, heard)
    assert found["handshake_time"] == pytest.approx(0.4)
    assert (found["ike_messages"], found["ike_octets"]) == (4, 1100)


def test_ike_messages_are_counted_once_though_both_ends_trace_them():
    heard = [ike(0.1, "b", "IKE_SA_INIT", octets=300, event="ike_received")]
    found = values(HANDSHAKE, heard)
    assert (found["ike_messages"], found["ike_octets"]) == (4, 1100)


def test_a_response_sent_again_is_no_retransmission():
    again = ike(0.35, "b", "IKE_AUTH", 1, request=False, retransmission=1)
    assert values(HANDSHAKE, [again])["retransmissions"] == 0


def test_rekey_time_ends_with_the_last_deletion():
    found = values(HANDSHAKE, REKEY)
    assert found["rekey_time"] == pytest.approx(0.4)
    assert found["rekeys"] == 1


def test_a_rekey_whose_old_sa_stands_at_one_end_has_no_time():
    found = values(HANDSHAKE, REKEY[:-1])
    assert found["rekey_time"] is None
    assert found["rekeys"] == 0


def test_a_rekey_that_came_to_nothing_is_none_though_the_old_sa_ended():
    given_up = [gone(165.0, "a", "01", "02", "ike_gone"), gone(170.0, "b", "02", "01", "ike_gone")]
    for happened in (REKEY[:2], REKEY[:4]):  # nobody made another, or the responder alone
        found = values(HANDSHAKE, happened, given_up)
        assert found["rekey_time"] is None
        assert found["rekeys"] == 0


def test_both_ends_starting_at_once_is_one_rekey_from_the_first_request():
    other = record(2.05, "b", "rekey_started", kind="child", old="02")
    found = values(HANDSHAKE, REKEY, [other])
    assert found["rekeys"] == 1
    assert found["rekey_time"] == pytest.approx(0.4)


def test_ike_rekey_time():
    trace = [
        record(0.4, "a", "ike_established", connection="c", spi_i="aa", spi_r="bb"),
        record(0.3, "b", "ike_established", connection="c", spi_i="aa", spi_r="bb"),
        record(5.0, "a", "rekey_started", kind="ike", old="aabb"),
        ike(5.0, "a", "CREATE_CHILD_SA", 3),
        record(5.1, "b", "ike_rekeyed", connection="c", spi_i="cc", spi_r="dd", old_spi_i="aa"),
        record(5.2, "a", "ike_rekeyed", connection="c", spi_i="cc", spi_r="dd", old_spi_i="aa"),
        record(5.3, "b", "ike_gone", connection="c", spi_i="aa", spi_r="bb", reason="rekeyed"),
        record(5.4, "a", "ike_gone", connection="c", spi_i="aa", spi_r="bb", reason="rekeyed"),
    ]
    assert values(trace)["rekey_time"] == pytest.approx(0.4)
    never_rekeyed = [found for found in trace if found.event != "ike_rekeyed"]
    assert values(never_rekeyed)["rekey_time"] is None


def test_rekey_gap_is_the_silence_beyond_the_period():
    sent = grid(1.0, 4.0, 0.1)
    silent = [i for i, t in enumerate(sent) if 2.05 < t < 2.35]
    found = values(HANDSHAKE, REKEY, probe(sent, lost=silent))
    assert found["rekey_gap"] == pytest.approx(len(silent) * 0.1)


def test_rekey_gap_is_zero_when_no_probe_is_late():
    found = values(HANDSHAKE, REKEY, probe(grid(1.0, 4.0, 0.1)))
    assert found["rekey_gap"] == pytest.approx(0.0, abs=1e-9)


def test_rekey_lost_counts_what_no_link_drop_explains():
    sent = grid(0.5, 6.0, 0.1)
    lost = [i for i, t in enumerate(sent) if 2.05 < t < 2.35]
    drop = record(
        sent[lost[0]] + 0.01, "wan", "link_dropped", direction="forward", index=7, octets=150
    )
    found = values(HANDSHAKE, REKEY, probe(sent, lost=lost), [drop])
    assert found["rekey_lost"] == len(lost) - 1
    assert found["probe_lost"] == len(lost)


def test_rekey_lost_is_zero_when_the_link_dropped_every_missing_probe():
    sent = grid(0.5, 6.0, 0.1)
    lost = [i for i, t in enumerate(sent) if 2.05 < t < 2.35]
    drops = [
        record(sent[i] + 0.01, "wan", "link_dropped", direction="forward", index=i, octets=150)
        for i in lost
    ]
    assert values(HANDSHAKE, REKEY, probe(sent, lost=lost), drops)["rekey_lost"] == 0


def test_rekey_lost_does_not_take_a_smaller_packet_for_the_probe():
    sent = grid(0.5, 6.0, 0.1)
    lost = [20]
    drop = record(sent[20] + 0.01, "wan", "link_dropped", direction="forward", index=7, octets=40)
    flows = (Probe("p", "h1", "h2", size=64),)
    assert values(HANDSHAKE, REKEY, probe(sent, lost=lost), [drop], flows=flows)["rekey_lost"] == 1


@pytest.mark.parametrize(("octets", "lost"), [(92, 0), (148, 0), (147, 1), (300, 1), (1500, 1)])
def test_rekey_lost_takes_packets_as_long_as_the_capture_shows_the_probe(octets, lost):
    """A lost IKE message or TCP segment explains no missing probe."""
    parts = Overhead(20, 0, 4, 4, 8, 20, 8, 2, 1, 1, 16)
    load = Load(groups={(IpProtocol.UDP, 64): {parts: 100}})
    sent = grid(0.5, 6.0, 0.1)
    drop = record(sent[18] + 0.01, "wan", "link_dropped", index=7, octets=octets)
    flows = (Probe("p", "h1", "h2", size=64),)
    found = values(HANDSHAKE, REKEY, probe(sent, lost=[18]), [drop], flows=flows, load=load)
    assert found["rekey_lost"] == lost


def test_what_is_said_of_sizes_comes_from_icmp_and_from_the_capture():
    learnt = [
        record(1.0, "h1", "path_mtu", octets=1400, inner=1346),
        record(2.0, "h2", "path_mtu", octets=1300, inner=1246),
    ]
    load = Load(crossings=Crossings(largest_whole=1246))
    found = values(HANDSHAKE, learnt, load=load)
    assert (found["path_mtu"], found["inner_path_mtu"]) == (1300, 1246)
    assert (found["largest_whole"], found["largest_in_fragments"]) == (1246, None)
    nothing = values(HANDSHAKE)
    assert nothing["path_mtu"] is None is nothing["inner_path_mtu"] is nothing["largest_whole"]


WAYS = {"p": (("lan", "forward"), ("wan", "forward")), "q": (("wan", "backward"),)}


@pytest.mark.parametrize(
    ("link", "direction", "lost"),
    [("wan", "forward", 0), ("lan", "forward", 0), ("wan", "backward", 1), ("wan2", "forward", 1)],
)
def test_rekey_lost_is_explained_only_where_the_probe_went(link, direction, lost):
    sent = grid(0.5, 6.0, 0.1)
    drop = record(sent[18] + 0.01, link, "link_dropped", direction=direction, index=7, octets=92)
    flows = (Probe("p", "h1", "h2", size=64),)
    trace = [HANDSHAKE, REKEY, list(probe(sent, lost=[18])), [drop]]
    assert values(*trace, flows=flows, ways=WAYS)["rekey_lost"] == lost
    assert values(*trace, flows=flows)["rekey_lost"] == 0


def test_a_drop_explains_the_probe_of_one_flow_alone():
    sent = grid(0.5, 6.0, 0.1)
    drop = record(sent[18] + 0.01, "wan", "link_dropped", direction="forward", octets=92)
    both = [*probe(sent, lost=[18]), *probe(sent, lost=[18], flow="r")]
    flows = (Probe("p", "h1", "h2", size=64), Probe("r", "h1", "h2", size=64))
    ways = {**WAYS, "r": WAYS["p"]}
    found = values(HANDSHAKE, REKEY, both, [drop], flows=flows, ways=ways)
    assert found["rekey_lost"] == 1


def test_rekey_lost_counts_up_to_the_end_all_but_what_may_be_under_way():
    """A probe takes 0.05 s, the rekey's window ends with the run."""
    sent = grid(0.5, 2.5, 0.01)
    last = len(sent) - 1
    trace = [HANDSHAKE, REKEY]
    for missing, lost in (
        ([last], 0),  # it left 0.005 s before the end: it may have come through
        ([last - 2], 1),  # so had this one, but later ones have come
        (list(range(last - 9, last + 1)), 5),  # half of these have had their time
        (list(range(last - 4, last + 1)), 0),
    ):
        found = values(*trace, probe(sent, lost=missing), duration=sent[last] + 0.005)
        assert found["rekey_lost"] == lost, missing
    # Without another record, the run went on: they had time enough.
    assert values(*trace, probe(sent, lost=[last]), duration=9.0)["rekey_lost"] == 1


def test_rekey_lost_leaves_out_probes_far_from_the_rekey():
    sent = grid(0.5, 12.0, 0.1)
    far = [i for i, t in enumerate(sent) if 6.0 < t < 6.3]
    assert values(HANDSHAKE, REKEY, probe(sent, lost=far))["rekey_lost"] == 0


def test_goodput_is_payload_over_the_time_of_the_transfer():
    trace = [
        record(1.0, "h1", "transfer_started", flow="t"),
        record(1.5, "h2", "transfer_octets", flow="t", octets=50_000),
        record(3.0, "h2", "transfer_octets", flow="t", octets=250_000),
    ]
    assert values(trace)["goodput"] == pytest.approx(1_000_000)


def test_goodput_of_a_transfer_that_delivered_nothing_is_no_number():
    assert values([record(1.0, "h1", "transfer_started", flow="t")])["goodput"] is None


def test_round_trips():
    rtts = [0.01, 0.02, 0.03, 0.04]
    trace = [record(float(i), "h1", "ping_sent", flow="p", sequence=i) for i in range(5)]
    trace += [
        record(i + rtt, "h1", "ping_received", flow="p", sequence=i, rtt=rtt)
        for i, rtt in enumerate(rtts)
    ]
    found = values(trace)
    assert found["rtt_min"] == 0.01
    assert found["rtt_median"] == pytest.approx(0.025)
    assert found["rtt_p95"] == pytest.approx(0.0385)
    assert found["rtt_max"] == 0.04
    assert found["ping_lost"] == 1


def inward(sent, delivered, sequence, kind="probe", node="h1"):
    return [
        record(sent, "h2", f"{kind}_sent", flow=f"{kind} {node}", sequence=sequence),
        record(delivered, node, f"{kind}_received", flow=f"{kind} {node}", sequence=sequence),
    ]


def test_nat_recovery_is_the_time_to_the_next_packet_inward():
    trace = [
        *inward(0.9, 1.0, 0, kind="ping"),
        record(2.0, "nat", "nat_rebound", inside="10.0.0.1:4500"),
        *inward(2.1, 2.2, 9, node="h2"),
        *inward(2.4, 2.5, 3),
    ]
    assert values(trace, inside=("h1",))["nat_recovery"] == pytest.approx(0.5)
    assert values(trace)["nat_recovery"] is None


def test_nat_recovery_leaves_out_what_was_under_way():
    trace = [
        *inward(0.9, 1.0, 0),
        record(2.0, "nat", "nat_rebound", inside="10.0.0.1:4500"),
        *inward(1.99, 2.01, 1),
        *inward(2.2, 2.3, 2),
    ]
    assert values(trace, inside=("h1",))["nat_recovery"] == pytest.approx(0.3)


def test_nat_recovery_needs_something_to_recover():
    trace = [record(1.0, "nat", "nat_rebound", inside="10.0.0.1:4500"), *inward(1.9, 2.0, 0)]
    assert values(trace, inside=("h1",))["nat_recovery"] is None


def test_drops_are_counted_by_reason_and_by_whom():
    trace = [
        record(1.0, "a", "packet_dropped", reason="replayed", direction="in", octets=100),
        record(1.1, "a", "packet_dropped", reason="replayed", direction="in", octets=100),
        record(1.2, "wan", "link_dropped", reason="loss", direction="forward", octets=100),
        record(1.3, "nat", "nat_dropped", reason="filtered"),
    ]
    found = values(trace)
    assert found["drops.replayed"] == 2
    assert found["drops.link_loss"] == 1
    assert found["drops.nat_filtered"] == 1
    assert unit_of("drops.replayed") == "packets"


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_its_unit_and_definition(name):
    metric = METRICS[name]
    assert metric.unit in {"s", "1", "octets", "packets", "bit/s"}
    assert len(metric.definition) > 10


def test_nobody_misses_port_500_after_the_move_to_4500():
    trace = [
        record(0.0, "nat", "nat_mapped", inside="10.0.0.1:500"),
        record(0.1, "nat", "nat_mapped", inside="10.0.0.1:4500"),
        *inward(0.9, 1.0, 0),
        record(2.0, "nat", "nat_expired", inside="10.0.0.1:500"),
        record(5.0, "nat", "nat_expired", inside="10.0.0.1:4500"),
        *inward(6.9, 7.0, 3),
    ]
    assert values(trace, inside=("h1",))["nat_recovery"] == pytest.approx(2.0)


def test_rekey_lost_leaves_out_what_was_lost_before_there_was_an_sa():
    sent = grid(0.2, 6.0, 0.1)
    early = [i for i, t in enumerate(sent) if t < 1.7]
    assert values(HANDSHAKE, REKEY, probe(sent, lost=early))["rekey_lost"] == 0


@given(
    missing=st.lists(st.floats(0, 10), max_size=30),
    drops=st.lists(st.floats(0, 10), max_size=30),
)
def test_drops_are_matched_one_to_one_with_the_latest_missing_probe(missing, drops):
    free, plain = _LatestFree(missing), sorted(missing)
    for drop in drops:
        free.take(drop)
        before = [t for t in plain if t <= drop]
        if before and before[-1] >= drop - TRANSIT_LIMIT:
            plain.remove(before[-1])
    assert free.left() == plain
