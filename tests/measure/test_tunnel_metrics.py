"""Metrics of many tunnels, from records written by hand."""

import pytest

from ipseclab.lab.trace import TraceRecord
from ipseclab.measure.metrics import measure
from ipseclab.measure.view import RunView


def record(t, node, event, **fields):
    return TraceRecord(t, node, event, fields)


def asked(t, node):
    return record(t, node, "ike_sent", exchange="IKE_SA_INIT", request=True)


def ready(t, node, connection, spi):
    own, peer = (spi, f"{spi}'") if node.startswith("i") else (f"{spi}'", spi)
    return record(t, node, "child_ready", connection=connection, spi_in=own, spi_out=peer)


def measured(*records):
    return measure(RunView.of(records))


def test_setup_lasts_until_the_last_tunnel_stands_at_both_ends():
    values = measured(
        asked(1.0, "i1"), asked(1.5, "i2"),
        ready(2.0, "i1", "a", "1"), ready(1.9, "r", "a", "1"),
        ready(3.0, "i2", "b", "2"), ready(3.2, "r", "b", "2"),
    )  # fmt: skip
    assert (values["tunnels"], values["setup_time"]) == (2.0, pytest.approx(2.2))


def test_a_later_child_sa_of_a_connection_sets_nothing_up():
    values = measured(
        asked(1.0, "i"), ready(2.0, "i", "a", "1"), ready(2.1, "r", "a", "1"),
        ready(9.0, "i", "a", "7"), ready(9.1, "r", "a", "7"),
    )  # fmt: skip
    assert (values["tunnels"], values["setup_time"]) == (1.0, pytest.approx(1.1))


def test_who_asks_in_vain_has_no_tunnel_and_who_does_not_ask_no_value():
    assert measured(asked(1.0, "i"))["tunnels"] == 0.0
    assert measured(asked(1.0, "i"))["setup_time"] is None
    assert measured(record(1.0, "h", "ping_sent"))["tunnels"] is None


def probes(sent, received):
    for number, t in sent.items():
        yield record(t, "h1", "probe_sent", flow="out", sequence=number)
    for number, t in received.items():
        yield record(t, "h2", "probe_received", flow="out", sequence=number)


def test_an_outage_is_the_longest_silence_less_the_period():
    sent = {number: float(number) for number in range(10)}
    late = {number: number + 0.1 for number in range(10) if number not in (4, 5, 6)}
    assert measured(*probes(sent, late))["outage"] == pytest.approx(3.0)
    whole = {number: number + 0.1 for number in range(10)}
    assert measured(*probes(sent, whole))["outage"] == pytest.approx(0.0)
    assert measured(*probes(sent, {}))["outage"] is None
