"""Copies of nodes, links and connections: what is made of templates, and what is said of wrong
ones."""

import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.schema import topology_schema
from ipseclab.lab.topology import load_topology, parse_topology
from ipseclab.lab.yaml_source import parse_yaml

SITES = """
nodes:
  inet: {kind: router}
repeat:
  - name: sites
    count: 3
    nodes:
      gw<i>: {kind: gateway}
      h<i>: {kind: host}
    links:
      - {ends: [h<i>, gw<i>], addresses: [10.0.<i>.10/24, 10.0.<i>.1/24]}
      - name: wan<i>
        ends: [gw<i>, inet]
        addresses: [198.18.<i>.1/24, 198.18.<i>.254/24]
        delay: <i>ms
    pairs:
      - {name: m<i>_<j>, initiator: gw<i>, responder: gw<j>, psk: of <i> and <j>}
"""


def test_each_copy_has_its_number_in_names_addresses_and_quantities():
    topology = parse_topology(SITES)
    assert list(topology.nodes) == ["inet", "gw1", "h1", "gw2", "h2", "gw3", "h3"]
    names = [link.name for link in topology.links]
    assert names == ["h1-gw1", "wan1", "h2-gw2", "wan2", "h3-gw3", "wan3"]
    assert topology.link("wan3").forward.delay == 0.003
    assert str(topology.nodes["gw2"].interface_on("wan2").address) == "198.18.2.1"


def test_every_two_copies_make_a_pair_once():
    connections = parse_topology(SITES).connections
    assert [item.name for item in connections] == ["m1_2", "m1_3", "m2_3"]
    assert [item.psk for item in connections] == ["of 1 and 2", "of 1 and 3", "of 2 and 3"]


def test_written_out_it_is_the_same_topology():
    (short, long) = (
        parse_topology(SITES),
        parse_topology(
            """
nodes:
  inet: {kind: router}
  gw1: {kind: gateway}
  h1: {kind: host}
  gw2: {kind: gateway}
  h2: {kind: host}
links:
  - {ends: [h1, gw1], addresses: [10.0.1.10/24, 10.0.1.1/24]}
  - {name: wan1, ends: [gw1, inet], addresses: [198.18.1.1/24, 198.18.1.254/24], delay: 1ms}
  - {ends: [h2, gw2], addresses: [10.0.2.10/24, 10.0.2.1/24]}
  - {name: wan2, ends: [gw2, inet], addresses: [198.18.2.1/24, 198.18.2.254/24], delay: 2ms}
connections:
  - {name: m1_2, initiator: gw1, responder: gw2, psk: of 1 and 2}
"""
        ),
    )
    assert short.with_overrides({"repeat.sites.count": 2}) == long


def test_overrides_of_templates_come_first_whatever_their_order():
    topology = parse_topology(SITES).with_overrides(
        {"links.wan5.loss": "5%", "repeat.sites.count": 5, "repeat.sites.pairs.0.mode": "none"}
    )
    assert topology.link("wan5").forward.loss.probability == 0.05
    assert topology.link("wan4").forward.loss is None
    assert len(topology.connections) == 10
    assert {item.mode for item in topology.connections} == {None}


def test_none_and_one_make_no_pairs():
    base = parse_topology(SITES)
    assert base.with_overrides({"repeat.sites.count": 1}).connections == ()
    assert list(base.with_overrides({"repeat.sites.count": 0}).nodes) == ["inet"]


def test_pairs_stand_in_front_of_what_each_copy_has():
    connections = (
        load_topology("offices")
        .with_overrides(
            {
                "repeat.branches.pairs": [
                    {"name": "m<i>_<j>", "initiator": "gw<i>", "responder": "gw<j>", "psk": "x"}
                ]
            }
        )
        .connections
    )
    assert [item.name for item in connections] == ["m1_2", "hub1", "hub2"]


@pytest.mark.parametrize(
    ("said", "instead", "problem"),
    [
        ("delay: <i>ms", "delya: 1ms",
         "<text>:15:9: repeat[0].links[1].delya (i = 1): unknown key, did you mean 'delay'?"),
        ("delay: <i>ms", "delay: <i>mm", "repeat[0].links[1].delay (i = 1): '1mm'"),
        ("{ends: [h<i>, gw<i>]", "{ends: [h<i>, gx<i>]", "links[0].ends[1] (i = 1): 'gx1'"),
        ("h<i>: {kind: host}", "host: {kind: host}",
         "'host' is a node already, expected another name (with <i> in it)"),
        ("gw<i>: {kind: gateway}", "gw<i>: {kind: gatway}", "nodes.gw<i>.kind (i = 1): 'gatway'"),
        ("delay: <i>ms", "delay: <j>ms", "repeat[0].links[1].delay: <j> is unknown, expected <i>"),
        ("of <i> and <j>", "of <k>",
         "repeat[0].pairs[0].psk: <k> is unknown, expected <i> and <j>"),
        ("initiator: gw<i>", "initiator: gv<i>",
         "repeat[0].pairs[0].initiator (i = 1, j = 2): 'gv1'"),
        ("count: 3", "count: 300", "(i = 256)"),
        ("count: 3", "count: 2000",
         "6:5: repeat[0].count: 2000 make 1999000 connections, expected at most 200000"),
        ("count: 3", "count: -1", "6:5: repeat[0].count: -1, expected a number from 0"),
        ("count: 3", "count: 3\n    number: 3", "repeat[0].number: unknown key"),
        ("  - name: sites", "  - nam: sites", "5:5: repeat[0].name: missing"),
    ],
)  # fmt: skip
def test_an_error_names_the_template_and_the_copy(said, instead, problem):
    assert said in SITES
    with pytest.raises(ConfigError) as error:
        parse_topology(SITES.replace(said, instead))
    assert problem in str(error.value)


def test_a_file_whose_own_part_is_no_list_is_told_where():
    with pytest.raises(ConfigError, match=r"links: not usable, expected a list"):
        parse_topology(SITES.replace("repeat:", "links: 7\nrepeat:"))


def test_a_name_of_a_block_stands_once():
    block = SITES[SITES.index("  - name: sites") :]
    with pytest.raises(ConfigError, match="that of an earlier block"):
        parse_topology(SITES + block)


def test_a_wrong_override_is_said_to_be_wrong_itself():
    base = parse_topology(SITES)
    for key, value in (("repeat.sites.count", "many"), ("links.wan2.delay", "long")):
        with pytest.raises(ConfigError) as error:
            base.with_overrides({key: value})
        assert str(error.value).startswith(f"<text>: override: {key}: '{value}'"), key


def test_editors_know_it():
    blocks = topology_schema()["properties"]["repeat"]
    assert blocks["items"] == {"$ref": "#/$defs/RepeatFile"}
    assert set(topology_schema()["$defs"]["RepeatFile"]["required"]) == {"name", "count"}


def test_a_file_without_copies_is_left_as_it_is():
    assert "repeat" not in parse_yaml("nodes: {}").data
