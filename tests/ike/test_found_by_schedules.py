"""Defects that random schedules and the walk through all orders found, each as it was found.

`benchmarks/schedules.py` and `benchmarks/explore.py` look for more.
"""

from random import Random

from pair import CONNECTION, make_pair
from post import Post

from ipseclab.ike.config import IkeConfig, Lifetime
from ipseclab.ike.context import Context
from ipseclab.ike.rekey import IkeRekey
from ipseclab.lab.schedules.parties import Limits, Terms
from ipseclab.lab.schedules.schedule import Action, Mishap, Schedule, run
from ipseclab.lab.trace import Trace
from ipseclab.present.ladder import ladder

CREATE_A = ("a CREATE_CHILD_SA request", "b CREATE_CHILD_SA response")


def test_responder_that_has_sent_nothing_yet_uses_the_sa_that_its_peer_has():
    """Seed 2125: neither the first SA nor its replacement is in use at b, and the response that
    tells a of the replacement is lost. RFC 7296 section 2.8: nothing may be sent on the new one."""
    pair = make_pair()
    pair.connect()
    post = Post(pair)
    pair.do(0, "rekey_child", CONNECTION)
    post.deliver(CREATE_A[0])
    post.take(CREATE_A[1])
    pair.run(3.0)  # longer than a new SA waits for its peer to use it first
    packet = pair.send(1)
    pair.run(1.0)
    assert pair.delivered[0] == [packet]
    post.open(60.0)
    pair.agreed()


# Of whole schedules: what is done when, what befalls which message.


def lines_of(*actions, mishaps=(), **changes):
    """The ladder of a schedule that breaks no invariant."""
    base = {"seed": 1, "gateways": 2, "terms": Terms(), "delay": 0.01, "connected": True}
    trace = Trace()
    schedule = Schedule(**{**base, "children": 1, **changes}, actions=actions, mishaps=mishaps)
    outcome = run(schedule, trace=trace)
    assert (outcome.invariant, outcome.problem) == ("", "")
    return ladder(trace.records)


def test_request_that_is_small_already_is_not_cut_anew():
    """Seed 82, with fragments below 576 octets. RFC 7383 section 2.5.2: smaller fragments have a
    greater total, by which a receiver knows them; as many would be other octets under the same
    numbers."""
    lost = tuple(Mishap(0, "ike", number, ()) for number in range(6))
    lines = lines_of(Action(0.0, 0, 1, "create_child"), mishaps=lost, terms=Terms(fragments=True))
    repeated = [line for line in lines if "CREATE_CHILD_SA request 2" in line]
    assert [line.split(" request 2 ")[1] for line in repeated][:4] == [
        *("1/2", "2/2"),
        *("1/2 (again)", "2/2 (again)"),
    ]


def test_token_of_an_ike_sa_that_was_closed_begins_no_other():
    """Seed 1063: b closes the IKE_SA; a late copy of a's last request finds b without it, which
    says so with its token. a, which only answers repeats by then, set up another one."""
    late = Mishap(0, "ike", 0, (0.0, 3.0))
    lines = lines_of(
        Action(0.0, 0, 1, "check_liveness"),
        Action(0.5, 1, 0, "delete_ike"),
        mishaps=(late,),
        terms=Terms(resumption=True),
    )
    asked = lines.index("I <-- R  INFORMATIONAL request 0")
    assert lines[asked + 1 : asked + 4] == [
        "I --> R  INFORMATIONAL response 0",
        "I --> R  INFORMATIONAL request 2 (duplicate)",
        "I <-- R  INFORMATIONAL response 2",
    ]
    assert "request 0 " not in lines[asked + 4]


def test_one_question_about_addresses_at_a_time():
    """Seed 1716: with windows of 4 both ends' questions went along all paths at once, each answer
    made an end change its path, and each change sent what was outstanding along the new one, for
    ever."""
    lost = (3, 7, 10, 11, 13, 14, 20)
    lines = lines_of(
        Action(0.1478, 0, 1, "roam"),
        Action(0.1529, 1, 0, "roam"),
        Action(1.9183, 1, 0, "roam"),
        Action(3.0396, 0, 1, "roam"),
        Action(3.5407, 0, 1, "rekey_ike"),
        Action(4.9824, 0, 1, "roam"),
        mishaps=(
            *(Mishap(0, "ike", number, ()) for number in lost),
            *(Mishap(1, "ike", number, ()) for number in (13, 16)),
        ),
        seed=1716,
        delay=0.05,
        terms=Terms(window=4, mobike=True),
    )
    assert len(lines) < 150


def test_addresses_told_on_an_ike_sa_that_is_being_rekeyed_are_told_anew():
    """Seed 16242: a's UPDATE_SA_ADDRESSES is lost, and b rekeys the IKE_SA before it comes again:
    b, which has replaced it, does nothing about it, and closes it before a has its answer."""
    lines = lines_of(
        Action(16.5, 1, 0, "roam"),
        Action(16.6, 0, 1, "roam"),
        Action(17.0, 0, 1, "roam"),
        Action(17.0, 1, 0, "rekey_ike"),
        mishaps=(Mishap(0, "ike", 5, ()),),
        seed=16242,
        delay=0.15,
        terms=Terms(mobike=True),
    )
    rekeyed = lines.index("I --> R  CREATE_CHILD_SA response 2")
    assert "I --> R  INFORMATIONAL request 0" in lines[rekeyed : rekeyed + 9]


def test_end_behind_a_nat_looks_at_its_mapping_however_much_comes_from_its_peer():
    """Seed 18660: the NAT has forgotten a, and a knows it as b follows its packets; but b's own
    requests went to where nobody is, and a asked how b sees it only after a silence of b."""
    lines = lines_of(
        Action(1.0, 0, 1, "move"),
        delay=0.05,
        terms=Terms(nat=True, mobike=True, window=4, limits=Limits.SECONDS),
        seed=18660,
    )
    assert lines


def test_rekey_of_the_ike_sa_is_tried_again_before_the_end_of_its_lifetime():
    """Seed 506258: three CHILD_SAs, each rekeyed in two exchanges as the ends prefer different
    groups, so that the IKE_SA's rekey met TEMPORARY_FAILURE time and again; the waits between
    tries grew past what was left of its lifetime, and it was closed with all that it had."""
    lines = lines_of(
        Action(0.5, 0, 1, "check_liveness"),
        Action(0.6, 0, 1, "create_child"),
        delay=0.15,
        children=2,
        terms=Terms(contrary=True, limits=Limits.SECONDS),
        seed=506258,
    )
    assert lines


def test_wait_for_another_try_leaves_time_for_a_further_one():
    """The same by itself, after refusals by which the next wait may be of 48 s. RFC 7296 section
    2.25 forbids to try again at once, so that there is a least wait at the very end too."""
    pair = make_pair(both={"ike_lifetime": Lifetime(seconds=100.0)})
    pair.connect()
    (sa,) = pair.a.ike.ike_sas
    ctx = Context(IkeConfig("a", ()), rng=Random(1), activity=pair.a.datapath)
    for left, latest in ((99.0, 48.0), (20.0, 10.0), (3.0, 1.5), (0.5, 1.0)):
        now = sa.established + 100.0 - left
        for _ in range(50):
            task = IkeRekey(sa.connection.ike_proposals)
            task.retry_delay = (1.0, 48.0)
            task.retry_later(ctx, sa, now)
            at, _task = sa.postponed.pop()
            assert now + 1.0 <= at <= now + latest


def test_peer_that_moved_is_asked_at_its_new_address_before_it_is_given_up():
    """Seed 989799: a's NAT forgets it while a has nothing to send, and b's question whether a is
    there goes to where nobody is. When a is heard from its new address, after b's last repetition,
    b gave it up as its schedule was at its end. RFC 7296 section 2.4: one who is heard is there."""
    lines = lines_of(
        Action(12.0, 1, 0, "traffic"),
        Action(16.0, 0, 1, "move"),
        delay=0.05,
        terms=Terms(nat=True),
        seed=989799,
    )
    heard = lines.index("I --> R  INFORMATIONAL request 2")
    assert lines[heard : heard + 4] == [
        "I --> R  INFORMATIONAL request 2",
        "I <-- R  INFORMATIONAL response 2",
        "I <-- R  INFORMATIONAL request 0 (again)",
        "I --> R  INFORMATIONAL response 0",
    ]


def test_ike_sa_that_its_rekey_is_still_waiting_for_is_not_disowned():
    """Seeds 801300, 284500, 667122, 689907 and 957843: a's first request on the IKE_SA that b's
    rekey asked for overtakes the response that makes it, and b showed the token of that IKE_SA
    (RFC 6290), so that a closed it and b kept it for itself."""
    lines = lines_of(
        Action(3.0, 1, 0, "rekey_ike"),
        mishaps=(Mishap(0, "ike", 0, (0.002,)), Mishap(1, "ike", 1, (0.01,))),
        seed=801300,
        terms=Terms(resumption=True, initial_contact=False),
    )
    made = lines.index("I --> R  CREATE_CHILD_SA response 0")
    assert lines[made + 1 : made + 8] == [
        "I --> R  INFORMATIONAL request 0",
        "I <-- R  INFORMATIONAL request 1",
        "I <-- R  INFORMATIONAL request 0",
        "I --> R  INFORMATIONAL response 0",
        "I --> R  INFORMATIONAL response 1",
        "I --> R  INFORMATIONAL request 0 (again)",
        "I <-- R  INFORMATIONAL response 0",
    ]
    assert not any("IKE_SESSION_RESUME" in line for line in lines)


def test_redundant_ike_sa_is_closed_although_the_one_that_survived_is_gone():
    """Seed 523162: both rekey the IKE_SA, and b's survives; b reauthenticates and closes it before
    the response to a's rekey is through. RFC 7296 section 2.8.2: a closes what its own made, by the
    nonces; a took it into service instead, and b waited for its DELETE."""
    lines = lines_of(
        Action(1.35, 0, 1, "rekey_ike"),
        Action(1.36, 1, 0, "rekey_ike"),
        Action(1.37, 1, 0, "reauthenticate"),
        mishaps=(Mishap(1, "ike", 1, ()), Mishap(1, "ike", 3, ())),
        seed=523162,
    )
    late = lines.index("I <-- R  CREATE_CHILD_SA response 2 (again)")
    assert lines[late + 1 : late + 5] == [
        "I --> R  INFORMATIONAL request 0",
        "I <-- R  INFORMATIONAL response 0",
        "I <-- R  INFORMATIONAL request 1 (again)",
        "I --> R  INFORMATIONAL response 1",
    ]
