"""Defects that random schedules and the walk through all orders found, each as it was found.

`benchmarks/schedules.py` and `benchmarks/explore.py` look for more.
"""

from pair import CONNECTION, make_pair
from post import Post

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
