"""Defects that random schedules and the walk through all orders found, each as it was found.

`benchmarks/schedules.py` and `benchmarks/explore.py` look for more.
"""

from pair import CONNECTION, make_pair
from post import Post

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
