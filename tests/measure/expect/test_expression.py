"""The language of expectations: what it says, what units do, what is refused."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.measure.expect.dimension import NUMBER, OCTETS, SECONDS, UNITS, Unit
from ipseclab.measure.expect.evaluate import NoValue, Value, evaluate, holds
from ipseclab.measure.expect.expression import ExpressionError, Name, parse, parts
from ipseclab.measure.expect.names import Constant, MetricUse, Vocabulary
from ipseclab.measure.metrics import METRICS

VOCABULARY = Vocabulary({"rtt": "s", "loss": "", "rate": "bit/s"}, ("wan", "gw1-gw2"), ("bulk",))
VALUES = {
    "handshake_time.p95": Value(0.09, SECONDS),
    "ike_octets": Value.of(1000, OCTETS),
    "rekeys": Value(2, NUMBER),
    "loss": Value(0.1),
    "rtt": Value(0.04, SECONDS),
}


def judged(text):
    tree = parse(text)
    VOCABULARY.check(tree)
    return evaluate(tree, VALUES.__getitem__, lambda name: name not in VOCABULARY.parameters)


TRUE = [
    "handshake_time.p95 < 2.3 * rtt",
    "handshake_time.p95 < 100 ms",
    "handshake_time.p95 < 0.1",
    "handshake_time.p95 - rtt == 0.05 s",
    "2.3*rtt>handshake_time.p95",
    "rtt < handshake_time.p95 <= 90ms",
    "ike_octets == 1000",
    "ike_octets == 1 kB",
    "ike_octets < 1 KiB",
    "ike_octets / rtt == 200 kbit/s",
    "ike_octets + 24 == 1 KiB",
    "handshake_time.p95 - rtt >= 50 ms",
    "handshake_time.p95 - rtt <= 50 ms",
    "handshake_time.p95 - rtt + 1e-9 > 50 ms",
    "rekeys == 2 and not rekeys == 3",
    "rekeys == 3 or rekeys == 2",
    "not not rekeys == 2",
    "rekeys > loss",
    "rekeys * rtt == 80 ms",
    "rekeys > 100 %",
    "-rekeys == --2 - 4",
    "abs(1 - rekeys) == 1",
    "max(handshake_time.p95, rtt, 0.2) == 200 ms",
    "min(0.01, handshake_time.p95) == 10 ms",
    "(rekeys == 2 or rekeys == 9) and (rekeys > 1)",
    "rekeys - 1 - 1 == 0",
    "rekeys / 2 / 2 == 0.5",
]


@pytest.mark.parametrize("text", TRUE)
def test_what_holds(text):
    assert holds(judged(text))
    assert not holds(judged(f"not ({text})"))


def test_measured_stands_left_in_its_own_unit():
    (compared,) = judged("500 < ike_octets")
    assert (compared.measured, compared.operator, compared.expected) == (1000, ">", 500)
    assert compared.unit == "octets"


def test_what_failed_of_several_is_what_is_told():
    failed = judged("rekeys == 2 and rekeys == 5 and rekeys == 6")
    assert [(one.expected, one.held) for one in failed] == [(5, False)]
    failed = judged("rekeys == 5 or rekeys == 6")
    assert [one.expected for one in failed] == [5, 6]


def test_and_and_or_stop_where_they_are_decided():
    def look(name):
        if name == "goodput":
            raise NoValue("no values of goodput")
        return VALUES[name]

    tree = parse("rekeys == 2 or goodput > 1")
    assert holds(evaluate(tree, look, lambda name: True))
    with pytest.raises(NoValue, match="goodput"):
        evaluate(parse("rekeys == 3 or goodput > 1"), look, lambda name: True)


@pytest.mark.parametrize("text", ["rekeys / (loss - 0.1) > 1", "handshake_time.p95 / 0 > 1"])
def test_dividing_by_zero_does_not_hold(text):
    with pytest.raises(NoValue, match="divides by zero"):
        judged(text)


def test_infinity_less_infinity_does_not_hold():
    tree = parse("rtt_max - rtt_max == 0")
    with pytest.raises(NoValue, match="is no number"):
        evaluate(tree, lambda name: Value(inf, SECONDS), lambda name: True)


MEANINGS = [
    ("rtt", Constant("rtt", SECONDS)),
    ("loss", Constant("loss", None)),
    ("duration", Constant("duration", SECONDS)),
    ("links.wan.delay", Constant("links.wan.delay", SECONDS)),
    ("links.gw1-gw2.mtu", Constant("links.gw1-gw2.mtu", OCTETS)),
    ("rekeys", MetricUse("rekeys", None, NUMBER)),
    ("goodput.share", MetricUse("goodput", "share", NUMBER)),
    ("goodput.p7", MetricUse("goodput", "p7", UNITS["bit/s"])),
    ("overhead.iv.max", MetricUse("overhead.iv", "max", OCTETS)),
    ("overhead.max", MetricUse("overhead", "max", OCTETS)),
    ("drops.link_loss.sum", MetricUse("drops.link_loss", "sum", UNITS["packets"])),
]


@pytest.mark.parametrize(("text", "meaning"), MEANINGS, ids=[text for text, _ in MEANINGS])
def test_what_a_name_means(text, meaning):
    tree = parse(text)
    assert isinstance(tree, Name)
    assert VOCABULARY.meaning(tree) == meaning


def test_every_metric_can_be_expected_something_of():
    for name in METRICS:
        VOCABULARY.check(parse(f"{name}.median >= 0 and {name} >= 0"))


def test_units_read_as_they_are_written():
    assert str(SECONDS.times(SECONDS)) == "s^2"
    assert str(NUMBER.over(SECONDS)) == "1/s"
    assert str(OCTETS.over(SECONDS)) == "bit/s"
    assert str(Unit(bits=2, seconds=-1)) == "bit^2/s"


@given(st.text(alphabet="rekeys.p95 <>=!+-*/()0123456789andornot%bit/s,", max_size=60))
def test_any_text_is_read_or_refused_where_it_is_wrong(text):
    problem = None
    try:
        tree = parse(text)
        VOCABULARY.check(tree)
    except ExpressionError as refused:
        problem = refused
    if problem is not None:
        assert 0 <= problem.at <= len(text)
        assert "\n" not in str(problem)
    else:
        assert any(isinstance(part, Name) for part in parts(tree))


@given(st.integers(1, 10**6), st.sampled_from(["ms", "kbit/s", "KiB", "%"]))
def test_a_literal_is_what_the_same_text_is_elsewhere(number, unit):
    from ipseclab.lab.units import Quantity, parse_quantity

    tree = parse(f"{number} {unit}")
    kind = next(kind for kind in Quantity if unit in kind.units)
    if kind is not Quantity.PROBABILITY or number <= 100:
        assert tree.value == parse_quantity(f"{number}{unit}", kind)
