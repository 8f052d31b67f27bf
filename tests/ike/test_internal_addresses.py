"""Configuration payloads (RFC 7296 sections 2.19 and 3.15, RFC 8598): addresses and names given,
used as selectors, refused, given back; both roles, lost messages, hostile values."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from forge import forge, ike_sa, receive
from hypothesis import given
from hypothesis import strategies as st
from pair import CONNECTION, NETWORKS, Pair, connection, gateway_config, make_pair
from transcript import opened, transcript

from ipseclab.errors import IkeError
from ipseclab.ike.config import ANY_IDENTITY, NULL_IDENTITY, Identity
from ipseclab.ike.configuration import AddressPool, AddressRequest, Assigned, Provision
from ipseclab.ike.leases import MAX_REMEMBERED, Leases
from ipseclab.registry import CfgAttributeType as Kind
from ipseclab.registry import CfgType, ExchangeType, IdType
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.payloads import CpAttribute, CpPayload
from ipseclab.wire.selector import TrafficSelector

ANYWHERE = (TrafficSelector.of_network("0.0.0.0/0"), TrafficSelector.of_network("::/0"))
POOL = AddressPool.of_network("10.9.0.0/29")
POOL6 = AddressPool.of_network("2001:db8:9::/125")
POOLS = tuple(TrafficSelector.of_network(text) for text in ("10.9.0.0/29", "2001:db8:9::/125"))
BOTH = AddressRequest(ip4=True, ip6=True)
PROVISION = Provision(
    pools=(POOL, POOL6),
    dns=("10.2.0.53", "2001:db8:2::53"),
    domains=("corp.example.org",),
    subnets=(NETWORKS[1], "2001:db8:2::/64"),
)
GIVEN = ["10.9.0.1/32", "2001:db8:9::1/128"]
FULL = {"own_ts": ANYWHERE}, {"peer_ts": POOLS}


def access(asked=BOTH, provision=PROVISION, both=None, **options):
    """A client and its gateway."""
    client, gateway = ({**one} for one in FULL)
    if asked is not None:
        client["address_request"] = asked
    if provision is not None:
        gateway["provision"] = provision
    return make_pair(both=both, a=client, b=gateway, **options)


def from_client(pair, address="10.9.0.1", number=0):
    ends = ip_address(address).packed, ip_address("10.2.0.2").packed
    packet = build_ipv4(*ends, 17, build_udp(ends[0], 4000, ends[1], 4001, bytes([number])))
    pair.do(0, "send_packet", packet)
    pair.run(0.1)
    return packet


def to_client(pair, address="10.9.0.1"):
    ends = ip_address("10.2.0.2").packed, ip_address(address).packed
    packet = build_ipv4(*ends, 17, build_udp(ends[0], 4001, ends[1], 4000, b"back"))
    pair.do(1, "send_packet", packet)
    pair.run(0.1)
    return packet


def selectors(pair, side):
    return [str(ts) for child in pair.gateways[side].ike.child_sas for ts in child.own_ts]


@pytest.mark.rfc("7296", "4", "MUST", "ask-for-address")
@pytest.mark.rfc("7296", "4", "MUST", "read-request")
@pytest.mark.rfc("7296", "4", "MUST", "give-address")
@pytest.mark.rfc("7296", "2.19", "MUST", "ask-in-auth")
@pytest.mark.rfc("7296", "2.19", "MUST", "cp-before-sa")
def test_client_gets_addresses_and_they_are_its_selectors():
    pair = access()
    pair.connect()
    lines = transcript(pair)
    assert lines[2].endswith("IDr, AUTH, CP, SA, TSi, TSr}")
    assert lines[3] == "b <-- IKE_AUTH: SK {IDr, AUTH, CP, SA, TSi, TSr}"
    assert selectors(pair, 0) == GIVEN
    assert [str(c.peer_ts[0]) for c in pair.b.ike.child_sas] == ["10.9.0.1/32"]
    (event,) = pair.events("address_assigned", 0)
    assert event.details == {
        "connection": CONNECTION,
        "addresses": "10.9.0.1 2001:db8:9::1",
        "dns": "10.2.0.53 2001:db8:2::53",
        "domains": "corp.example.org",
    }
    packet = from_client(pair)
    assert pair.delivered[1] == [packet]
    back = to_client(pair)
    assert pair.delivered[0] == [back]


def test_packet_from_another_address_does_not_leave():
    pair = access()
    pair.connect()
    before = len(pair.sent)
    from_client(pair, "192.0.2.1")
    assert len(pair.sent) == before
    assert pair.events("packet_dropped", 0)[-1].details["reason"] == "no_policy"


def test_gateway_does_not_call_a_client_for_an_address_that_nobody_has():
    pair = access()
    pair.connect()
    before = len(pair.sent)
    to_client(pair, "10.9.0.5")
    assert len(pair.sent) == before
    assert pair.events("cannot_initiate", 1)


def test_who_has_nothing_to_give_ignores_the_payload_and_is_left():
    pair = access(provision=None)
    pair.connect()
    assert "CP" not in transcript(pair)[3]
    assert pair.events("address_refused", 0)
    assert not pair.a.ike.ike_sas
    assert not pair.b.ike.child_sas


@pytest.mark.rfc("7296", "2.19", "MUST", "cp-required")
def test_client_that_has_to_ask_and_does_not():
    pair = access(asked=None, provision=replace(PROVISION, required=True))
    pair.connect()
    assert transcript(pair)[3] == "b <-- IKE_AUTH: SK {IDr, AUTH, N(FAILED_CP_REQUIRED)}"
    assert not pair.b.ike.child_sas
    assert [len(gateway.ike.ike_sas) for gateway in pair.gateways] == [1, 1]


@pytest.mark.rfc("7296", "2.19", "MUST NOT", "reply-unasked")
def test_nothing_is_given_to_who_does_not_ask():
    pair = access(asked=None)
    pair.connect()
    assert transcript(pair)[3] == "b <-- IKE_AUTH: SK {IDr, AUTH, SA, TSi, TSr}"
    assert not pair.events("address_given")


@pytest.mark.rfc("7296", "3.15.1", "MUST NOT", "netmask-asked")
@pytest.mark.rfc("7296", "3.15.1", "MUST", "supported-empty")
@pytest.mark.rfc("7296", "2.19", "MUST", "cp-address")
@pytest.mark.parametrize(("ip4", "ip6"), [(True, False), (False, True), (True, True)])
def test_a_request_always_asks_for_an_address(ip4, ip6):
    asked = AddressRequest(ip4=ip4, ip6=ip6).payload()
    kinds = [attribute.type for attribute in asked.attributes]
    assert (Kind.INTERNAL_IP4_ADDRESS in kinds, Kind.INTERNAL_IP6_ADDRESS in kinds) == (ip4, ip6)
    assert asked.cfg_type == CfgType.CFG_REQUEST
    assert {attribute.value for attribute in asked.attributes} == {b""}


@pytest.mark.rfc("7296", "3.15.1", "MUST", "netmask-with-address")
def test_netmask_needs_an_address():
    asked = CpPayload(CfgType.CFG_REQUEST, (CpAttribute(Kind.INTERNAL_IP4_NETMASK),))
    assert PROVISION.reply(asked, ()).attributes == ()
    assert PROVISION.reply(asked, (POOL6.address(0),)).attributes[1:] == ()
    with_address = PROVISION.reply(asked, (POOL.address(0),))
    assert [a.type for a in with_address.attributes] == [
        Kind.INTERNAL_IP4_ADDRESS,
        Kind.INTERNAL_IP4_NETMASK,
    ]


@pytest.mark.rfc("7296", "1.7", "MUST", "no-expiry-attribute")
@pytest.mark.rfc("7296", "3.15.1", "MUST", "unknown-attributes")
@pytest.mark.parametrize("kind", [Kind(5), Kind(16_383), Kind(20_000)])
def test_unknown_attributes_are_ignored(kind):
    """Among them INTERNAL_ADDRESS_EXPIRY, which RFC 7296 section 1.7 has removed."""
    odd = CpAttribute(kind, b"\0\0\0\1")
    asked, given = BOTH.payload(), (POOL.address(0),)
    more = replace(asked, attributes=(odd, *asked.attributes))
    assert PROVISION.reply(more, given) == PROVISION.reply(asked, given)
    reply = PROVISION.reply(asked, given)
    longer = replace(reply, attributes=(odd, *reply.attributes))
    assert Assigned.of_reply(longer, BOTH) == Assigned.of_reply(reply, BOTH)


@pytest.mark.rfc("7296", "4", "MUST", "give-address")
def test_family_without_a_pool_is_left_out():
    pair = access(provision=replace(PROVISION, pools=(POOL,)))
    pair.connect()
    assert pair.events("address_assigned", 0)[0].details["addresses"] == "10.9.0.1"


@pytest.mark.rfc("7296", "3.15.4", "MAY", "without-address")
def test_pool_that_is_used_up():
    pair = access(provision=Provision(pools=(AddressPool.of_network("10.9.0.0/30"),)))
    leases = pair.b.ike._ctx.leases
    for name in (b"one", b"two"):
        leases.take(AddressPool.of_network("10.9.0.0/30"), Identity(IdType.ID_FQDN, name))
    pair.connect()
    assert transcript(pair)[3] == "b <-- IKE_AUTH: SK {IDr, AUTH, N(INTERNAL_ADDRESS_FAILURE)}"
    assert transcript(pair)[4] == "a --> INFORMATIONAL: SK {D(IKE)}"
    assert not pair.a.ike.ike_sas
    assert leases.in_use == 2


def test_address_is_given_back_and_given_again():
    pair = access()
    pair.connect()
    leases = pair.b.ike._ctx.leases
    assert leases.in_use == 2
    pair.do(0, "delete_ike", CONNECTION)
    pair.run(1.0)
    assert leases.in_use == 0
    assert pair.events("address_lost", 0)
    leases.take(POOL, Identity(IdType.ID_FQDN, b"somebody else"))
    pair.connect()
    assert selectors(pair, 0) == GIVEN


def test_address_outlives_rekeys_by_either_end():
    pair = access()
    pair.connect()
    for method in ("rekey_ike", "rekey_child"):
        for side in (0, 1):
            pair.do(side, method, CONNECTION)
            pair.run(10.0)
            packet = from_client(pair)
            assert pair.delivered[1][-1] == packet
    assert len(pair.events("ike_rekeyed", 0)) == 2
    assert not pair.events("address_released")
    assert not pair.events("address_lost")
    pair.do(1, "delete_child", CONNECTION)
    pair.run(1.0)
    pair.do(0, "initiate", CONNECTION)
    pair.run(1.0)
    assert selectors(pair, 0) == GIVEN
    pair.do(1, "delete_ike", CONNECTION)
    pair.run(1.0)
    assert pair.b.ike._ctx.leases.in_use == 0
    assert len(pair.events("address_lost", 0)) == 1


def test_rekeys_of_both_ends_at_once_keep_the_address():
    pair = access()
    pair.connect()
    for side in (0, 1):
        pair.do(side, "rekey_ike", CONNECTION)
    pair.run(30.0)
    assert pair.b.ike._ctx.leases.in_use == 2
    assert not pair.events("address_lost")
    assert from_client(pair) == pair.delivered[1][-1]


@pytest.mark.parametrize("lost", range(4))
def test_lost_and_repeated_messages_give_one_address(lost):
    pair = access()
    pair.fate = lambda sent: () if sent.index == lost else (0.0, 0.002)
    pair.do(0, "initiate", CONNECTION)
    pair.run(30.0)
    assert pair.b.ike._ctx.leases.in_use == 2
    assert len(pair.events("address_given", 1)) == 2
    pair.fate = lambda sent: (0.0,)
    from_client(pair)
    assert pair.delivered[1]


def test_client_that_restarts_gets_its_address_again():
    pair = access()
    pair.connect()
    again = Pair(pair.configs, seed=7)
    again.gateways[1] = pair.b
    again.now = pair.now
    again.connect()
    assert selectors(again, 0) == GIVEN
    assert pair.b.ike._ctx.leases.in_use == 2


def clients(count, **gateway):
    """A gateway for anyone, and the names of so many clients."""
    config = connection(1, **FULL[1], provision=PROVISION, peer_id=ANY_IDENTITY,
                        peer_address=None, initial_contact=False, **gateway)  # fmt: skip
    names = [Identity(IdType.ID_FQDN, f"client{n}".encode()) for n in range(count)]
    shared = gateway_config(config, name="b")
    client = connection(0, own_ts=ANYWHERE, address_request=BOTH)
    return [Pair((gateway_config(replace(client, own_id=name)), shared), seed=n)
            for n, name in enumerate(names)]  # fmt: skip


def test_each_of_several_clients_gets_what_is_for_its_address():
    pairs = clients(3)
    for pair in pairs:
        pair.gateways[1] = pairs[0].b
        pair.connect()
    for number, pair in enumerate(pairs, 1):
        back = to_client(pair, f"10.9.0.{number}")
        assert pair.delivered[0] == [back]
        spoofed = from_client(pair, f"10.9.0.{number % 3 + 1}")
        assert spoofed not in pair.delivered[1]


@pytest.mark.rfc("7296", "3.15.1", "MUST NOT", "set-refused")
@pytest.mark.rfc("7296", "3.15.1", "MUST", "set-none")
@pytest.mark.rfc("7296", "3.15.1", "MAY", "set-ignored")
@pytest.mark.rfc("7296", "2.19", "MAY", "cp-more")
@pytest.mark.rfc("7296", "2.20", "MAY", "version")
def test_informational_request_is_answered_and_a_set_acknowledged():
    pair = access()
    pair.connect()
    asked = CpPayload(CfgType.CFG_REQUEST, tuple(
        CpAttribute(kind) for kind in (
            Kind.APPLICATION_VERSION, Kind.SUPPORTED_ATTRIBUTES, Kind.INTERNAL_IP4_ADDRESS,
            Kind.INTERNAL_IP4_NETMASK,
        )))  # fmt: skip
    (sent,) = receive(pair, 1, forge(pair, 0, ExchangeType.INFORMATIONAL, asked))
    (reply,) = opened(pair, sent)[1]
    values = {attribute.type: attribute.value for attribute in reply.attributes}
    assert values[Kind.APPLICATION_VERSION] == b"ipseclab"
    assert len(values[Kind.SUPPORTED_ATTRIBUTES]) == 20
    assert values[Kind.INTERNAL_IP4_ADDRESS] == bytes([10, 9, 0, 1])
    assert values[Kind.INTERNAL_IP4_NETMASK] == bytes([255, 255, 255, 248])
    ike_sa(pair, 0).next_message_id += 1
    setting = CpPayload(CfgType.CFG_SET, (CpAttribute(Kind.INTERNAL_IP4_DNS, b"abcd"),))
    (sent,) = receive(pair, 1, forge(pair, 0, ExchangeType.INFORMATIONAL, setting))
    assert opened(pair, sent)[1] == (CpPayload(CfgType.CFG_ACK, ()),)


def test_domains_need_a_server_and_a_wish():
    asked = AddressRequest().payload()
    with_server = Provision(dns=("10.2.0.53",), domains=("example.org",))
    assert Kind.INTERNAL_DNS_DOMAIN in [a.type for a in with_server.reply(asked, ()).attributes]
    without = replace(with_server, dns=())
    assert not without.reply(asked, ()).attributes
    unasked = AddressRequest(dns=False).payload()
    assert not with_server.reply(unasked, ()).attributes
    # RFC 8598 section 3.1: the client ignores them, too.
    reply = CpPayload(CfgType.CFG_REPLY, (CpAttribute(Kind.INTERNAL_DNS_DOMAIN, b"example.org"),))
    assert Assigned.of_reply(reply, AddressRequest()).domains == ()


HOSTILE = [
    (Kind.INTERNAL_IP4_ADDRESS, b"123"),
    (Kind.INTERNAL_IP6_ADDRESS, bytes(16)),
    (Kind.INTERNAL_IP4_DNS, b""),
    (Kind.INTERNAL_IP6_DNS, bytes(4)),
    (Kind.INTERNAL_IP4_SUBNET, bytes([10, 2, 0, 0, 255, 0, 255, 0])),
    (Kind.INTERNAL_IP6_SUBNET, bytes(16) + b"\xff"),
    (Kind.INTERNAL_DNS_DOMAIN, b"evil.example\nnameserver 192.0.2.66"),
    (Kind.INTERNAL_DNS_DOMAIN, b"\xff\xfe"),
    (Kind.INTERNAL_DNS_DOMAIN, b"x" * 300),
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_reply_with_a_hostile_value_is_refused(hostile):
    good = PROVISION.reply(BOTH.payload(), (bytes([10, 9, 0, 1]),))
    with pytest.raises(IkeError):
        Assigned.of_reply(replace(good, attributes=(*good.attributes, CpAttribute(*hostile))), BOTH)


@given(st.lists(st.builds(CpAttribute, st.sampled_from(list(Kind)), st.binary(max_size=40)),
                max_size=30))  # fmt: skip
def test_any_reply_is_taken_or_refused_and_any_request_answered(attributes):
    try:
        assigned = Assigned.of_reply(CpPayload(CfgType.CFG_REPLY, tuple(attributes)), BOTH)
    except IkeError:
        pass
    else:
        assert all(len(address) in (4, 16) for address in assigned.addresses)
    asked = CpPayload(CfgType.CFG_REQUEST, tuple(attributes))
    assert PROVISION.reply(asked, ()).cfg_type == CfgType.CFG_REPLY


def test_address_outside_of_what_the_policy_allows_is_refused():
    narrow = (TrafficSelector.of_network("10.8.0.0/24"),)
    pair = make_pair(a={"own_ts": narrow, "address_request": BOTH},
                     b={**FULL[1], "provision": PROVISION})  # fmt: skip
    pair.connect()
    assert pair.events("address_refused", 0)
    assert not pair.a.ike.child_sas
    assert not pair.b.ike.child_sas


def test_error_beside_auth_does_not_hide_the_reply():
    pair = make_pair(a={"own_ts": ANYWHERE, "address_request": BOTH},
                     b={**FULL[1], "provision": PROVISION,
                        "own_ts": (TrafficSelector.of_network("10.77.0.0/24"),)})  # fmt: skip
    pair.connect()
    assert transcript(pair)[3] == "b <-- IKE_AUTH: SK {IDr, AUTH, CP, N(TS_UNACCEPTABLE)}"
    assert pair.events("address_assigned", 0)


# The table of leases.


def owner(number):
    return Identity(IdType.ID_FQDN, str(number).encode())


def test_network_of_hosts():
    assert (POOL.size, str(POOL)) == (6, "10.9.0.1-10.9.0.6")
    assert POOL6.size == 7
    with pytest.raises(ValueError, match="no room"):
        AddressPool.of_network("10.9.0.0/32")


def test_identity_that_asks_for_its_address_shares_it_and_nobody_else_does():
    leases = Leases()
    first = leases.take(POOL, owner(1))
    assert leases.take(POOL, owner(1), first.address) is first
    assert leases.take(POOL, owner(1)) is not first
    assert leases.take(POOL, owner(2), first.address).address != first.address
    leases.give_back(first)
    assert first.holders == 1


def test_oldest_of_those_given_back_goes_to_the_next():
    leases = Leases()
    taken = [leases.take(POOL, owner(n)) for n in range(POOL.size)]
    assert leases.take(POOL, owner(99)) is None
    leases.give_back(taken[3])
    leases.give_back(taken[1])
    assert leases.take(POOL, owner(99)).address == taken[3].address
    assert leases.take(POOL, owner(1)).address == taken[1].address
    assert leases.take(POOL, owner(3)) is None


def test_nobody_is_remembered_for_nobody():
    leases = Leases()
    first, second = (leases.take(POOL, NULL_IDENTITY) for _ in range(2))
    assert first.address != second.address
    leases.give_back(first)
    assert len(leases) == 1


def test_memory_is_bounded_whatever_the_pool():
    leases, pool = Leases(), AddressPool.of_network("2001:db8::/64")
    for number in range(MAX_REMEMBERED + 500):
        leases.give_back(leases.take(pool, owner(number)))
    assert len(leases) == MAX_REMEMBERED
    assert leases.in_use == 0


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=60))
def test_no_address_is_given_twice(steps):
    leases, held = Leases(), []
    for who, back in steps:
        if back and held:
            leases.give_back(held.pop(0))
        elif (lease := leases.take(POOL, owner(who))) is not None:
            held.append(lease)
        assert len({lease.address for lease in held}) == len(held)
    assert leases.in_use == len(held)


def test_same_seed_same_octets():
    one, two = access(), access()
    one.connect()
    two.connect()
    assert [sent.item for sent in one.sent] == [sent.item for sent in two.sent]
