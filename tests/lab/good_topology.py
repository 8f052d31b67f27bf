"""A topology in which nothing is wrong, for tests that change it, and what is said of a bad one."""

import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.topology import parse_topology

GOOD = """\
description: A good one
nodes:
  h1: {kind: host}
  gw1: {kind: gateway}
  nat1: {kind: nat, outside: wan}
  gw2: {kind: gateway}
  h2: {kind: host}
links:
  - name: lan1
    ends: [h1, gw1]
    addresses: [10.1.0.10/24, 10.1.0.1/24]
  - name: access
    ends: [gw1, nat1]
    addresses: [10.9.0.2/24, 10.9.0.1/24]
  - name: wan
    ends: [nat1, gw2]
    addresses: [192.0.2.1/24, 192.0.2.2/24]
    delay: 20ms
  - name: lan2
    ends: [gw2, h2]
    addresses: [10.2.0.1/24, 10.2.0.10/24]
connections:
  - name: site
    initiator: gw1
    responder: gw2
    psk: secret
"""


def refused(text):
    with pytest.raises(ConfigError) as caught:
        parse_topology(text, "lab.yaml")
    line = str(caught.value)
    assert "\n" not in line
    return line


def without_nat(text):
    direct = text.replace("  nat1: {kind: nat, outside: wan}", "  nat1: {kind: router}")
    assert direct != text
    return direct
