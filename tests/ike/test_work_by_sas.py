"""What a set-up makes a gateway do does not grow with the IKE_SAs that it has: by the calls of
functions, which are the same on every machine."""

import random
import sys
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from pair import connection, gateway_config

from ipseclab.gateway import Gateway
from ipseclab.ike.config import ANY_IDENTITY, Identity
from ipseclab.measure.workload import CONNECTION, handshake
from ipseclab.registry import IdType
from ipseclab.wire.selector import TrafficSelector

FEW, MANY = 8, 160
MORE = 1.05
"""Times as many calls with many as with few: a dictionary that grows, a timer's heap."""


def gate():
    anyone = {"name": CONNECTION, "peer_address": None, "peer_id": ANY_IDENTITY}
    own = replace(connection(1, **anyone), peer_ts=(TrafficSelector.of_network("10.0.0.0/8"),))
    return Gateway(gateway_config(own), rng=random.Random("gate"))


def client(number, options):
    own = connection(
        0,
        name=CONNECTION,
        own_address=str(IPv4Address("100.64.0.1") + number),
        own_id=Identity(IdType.ID_FQDN, f"client{number}".encode()),
        own_ts=(TrafficSelector.of_address(str(IPv4Address("10.1.0.1") + number)),),
        **options,
    )
    return Gateway(gateway_config(own), rng=random.Random(number))


def calls_of(step):
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return step(), calls
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("options", [{}, {"force_encapsulation": True}], ids=["plain", "nat"])
def test_set_up_takes_as_many_calls_with_many_ike_sas_as_with_few(options):
    responder, by_number = gate(), []
    for number in range(MANY):
        spent = 0

        def timed(name, step):
            nonlocal spent
            outputs, calls = calls_of(step)
            spent += calls if name == "b" else 0
            return outputs

        handshake(client(number, options), responder, timed)
        by_number.append(spent)
    assert len(responder.ike.child_sas) == MANY
    assert by_number[FEW] > 500
    assert max(by_number[-5:]) <= MORE * max(by_number[FEW : FEW + 5])
