"""No message makes a gateway work more than ten times as much as the honest one of its exchange:
by the calls of functions that it causes, which are the same on every machine."""

import random
import sys
from collections import Counter

import pytest

from ipseclab.lab.costly import LARGEST, burdened, burdens, in_fragments, moments, mutated

AT_MOST = 10
MUTATIONS = 12
FRAGMENTS = 64
DEAR = (
    *("exchange", "pow", "from_private_bytes", "derive_private_key", "generate", "sign", "verify"),
    *("verify_directly_issued_by", "load_der_x509_certificate", "load_der_public_key"),
)
"""Functions outside Python that take long, which a count of calls does not show."""
MOMENTS = {moment.name: moment for moment in moments()}


def work_of(siege, shot):
    """The calls that a datagram causes at its victim, by name."""
    calls = Counter()

    def count(frame, event, called):
        if event == "call":
            calls[frame.f_code.co_name] += 1
        elif event == "c_call":
            calls[called.__name__] += 1

    gateway = siege.gateways[shot.victim]
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        gateway.receive_datagram(shot.path, shot.data, siege.now)
    finally:
        sys.setprofile(before)
    return calls


def dear(calls):
    return sum(number for name, number in calls.items() if name in DEAR)


def honest_work(moment):
    siege, shot = moment.reach()
    return work_of(siege, burdened(siege, shot, burdens()["honest"], random.Random(0)))


@pytest.mark.parametrize("name", MOMENTS)
def test_the_dearest_message_costs_less_than_ten_honest_ones(name):
    moment = MOMENTS[name]
    honest = honest_work(moment)
    assert honest.total() > 100, "the honest message is looked into"
    for what, burden in burdens().items():
        siege, shot = moment.reach()
        changed = burdened(siege, shot, burden, random.Random(0))
        if changed is None:  # it does not fit
            continue
        calls = work_of(siege, changed)
        assert calls.total() <= AT_MOST * honest.total(), what
        assert dear(calls) <= AT_MOST * max(1, dear(honest)), what


@pytest.mark.parametrize("name", MOMENTS)
def test_a_mutated_message_and_a_fragment_cost_less_than_ten_honest_ones(name):
    moment = MOMENTS[name]
    most = AT_MOST * honest_work(moment).total()
    for seed in range(MUTATIONS):
        siege, shot = moment.reach()
        assert work_of(siege, mutated(siege, shot, random.Random(seed))).total() <= most, seed
    siege, shot = moment.reach()
    for part in in_fragments(siege, shot, burdens()[LARGEST], FRAGMENTS, random.Random(0)):
        assert work_of(siege, part).total() <= most, part


def test_the_count_sees_what_a_message_makes_a_gateway_do():
    honest = honest_work(MOMENTS["IKE_SA_INIT request"])
    assert honest["exchange"] == 1, "one key exchange"
    assert honest["decode_proposals"] == 1
    assert dear(honest) >= 2
