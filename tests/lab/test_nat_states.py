"""The NAT against a plain model of RFC 4787, for each kind of mapping and filtering."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from nat_packets import OUT, comes_in, ends, nat, udp

from ipseclab.lab.nat import NatBehaviour, NatDrop, NatSide

INSIDE = [f"10.9.0.{host}:{port}" for host in (2, 3) for port in (500, 4500)]
REMOTES = [f"198.51.100.{host}:{port}" for host in (2, 3) for port in (500, 4500)]
TIMEOUT = 30.0


def part(kind, remote):
    return {
        NatBehaviour.ENDPOINT_INDEPENDENT: None,
        NatBehaviour.ADDRESS_DEPENDENT: remote.split(":")[0],
        NatBehaviour.ADDRESS_AND_PORT_DEPENDENT: remote,
    }[kind]


class NatStates(RuleBasedStateMachine):
    """What a mapping is: (inside end, the part of the remote end that counts) to an outside end."""

    mapping: NatBehaviour
    filtering: NatBehaviour
    preservation: bool

    def __init__(self):
        super().__init__()
        self.nat = nat(
            mapping=self.mapping,
            filtering=self.filtering,
            port_preservation=self.preservation,
            udp_timeout=TIMEOUT,
            first_port=2000,
            last_port=2100,
        )
        self.now = 0.0
        self.table = {}
        self.last_sent = {}
        self.retired = set()
        self.events = Counter()

    def live(self):
        """The model's mappings whose last outbound packet is not too old."""
        latest = {}
        for (key, _remote), at in self.last_sent.items():
            latest[key] = max(at, latest.get(key, at))
        return {key: end for key, end in self.table.items() if self.now < latest[key] + TIMEOUT}

    def count(self, notices):
        self.events.update(notice.event for notice in notices)

    @rule(seconds=st.sampled_from([0.5, 7.0, 16.0, 40.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(inside=st.sampled_from(INSIDE), remote=st.sampled_from(REMOTES))
    def send(self, inside, remote):
        live = self.live()
        result = self.nat.outbound(udp(inside, remote), self.now)
        self.count(result.notices)
        assert result.to is NatSide.OUTSIDE
        outside, destination = ends(result.packet)
        assert destination == remote
        key = (inside, part(self.mapping, remote))
        if key in live:
            assert outside == live[key]
        else:
            assert outside not in live.values()
            assert outside not in self.retired
            wanted = f"{OUT}:{inside.split(':')[1]}"
            if self.preservation and wanted not in live.values() and wanted not in self.retired:
                assert outside == wanted
            self.forget(key)
            self.table[key] = outside
        self.last_sent[key, remote] = self.now

    def forget(self, key):
        self.last_sent = {pair: at for pair, at in self.last_sent.items() if pair[0] != key}

    @precondition(lambda self: self.table)
    @rule(remote=st.sampled_from(REMOTES), data=st.data())
    def receive(self, remote, data):
        known = sorted(set(self.table.values()) | self.retired)
        outside = data.draw(st.sampled_from(known))
        found = [key for key, end in self.live().items() if end == outside]
        if not found:
            expected = NatDrop.NO_MAPPING.value
        else:
            (key,) = found
            open_to = {
                part(self.filtering, sent)
                for (owner, sent), at in self.last_sent.items()
                if owner == key and self.now < at + TIMEOUT
            }
            wanted = part(self.filtering, remote)
            allowed = self.filtering is NatBehaviour.ENDPOINT_INDEPENDENT or wanted in open_to
            expected = key[0] if allowed else NatDrop.FILTERED.value
        assert comes_in(self.nat, remote, outside, now=self.now) == expected

    @rule()
    def rebind(self):
        live = self.live()
        notices = self.nat.rebind(self.now)
        gone = [notice.details["outside"] for notice in notices if notice.event == "nat_rebound"]
        assert sorted(gone) == sorted(live.values())
        self.retired = set(live.values())
        self.table.clear()
        self.last_sent.clear()

    @invariant()
    def the_table_is_what_the_model_says(self):
        self.count(self.nat.expire(self.now))
        assert len(self.nat) == len(self.live())


@pytest.mark.parametrize("preservation", [True, False], ids=["preserving", "random ports"])
@pytest.mark.parametrize("filtering", NatBehaviour, ids=lambda kind: kind.value)
@pytest.mark.parametrize("mapping", NatBehaviour, ids=lambda kind: kind.value)
def test_the_nat_is_as_the_model(mapping, filtering, preservation):
    names = {"mapping": mapping, "filtering": filtering, "preservation": preservation}
    machine = type("Machine", (NatStates,), names)
    case = machine.TestCase
    case.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)
    case("runTest").runTest()


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=120), st.integers(0, 60), st.booleans())
def test_no_octets_make_it_fail(octets, at, outbound):
    """Garbage, and garbage written over a good packet whose header checksum is made to fit."""
    box = nat()
    good = bytearray(udp(INSIDE[0], REMOTES[0], bytes(30)))
    good[at : at + len(octets)] = octets
    for packet in (octets, bytes(good)):
        way = box.outbound if outbound else box.inbound
        result = way(packet, 0.0)
        assert (result.packet is None) == (result.dropped is not None)
