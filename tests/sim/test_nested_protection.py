"""ESP inside AH: an SA from host to host that goes through another from gateway to gateway."""

from __future__ import annotations

import sim_lab

from ipseclab.lab.plan import Ping, Transfer

#   h1 - gw1 ===== gw2 - h2
NESTED = sim_lab.SITES.replace("h1: {kind: host}", "h1: {kind: host, stack: ipseclab}").replace(
    "h2: {kind: host}", "h2: {kind: host, stack: ipseclab}"
) + (
    "  - {name: inner, initiator: h1, responder: h2, psk: other, mode: transport,"
    " start: on-demand}\n"
)


def test_esp_from_host_to_host_goes_in_ah_from_gateway_to_gateway() -> None:
    lab = sim_lab.topology(NESTED, connections__site__protocol="ah")
    records = sim_lab.run(
        lab,
        Ping("ping", "h1", "h2", start=1.0, count=4),
        Transfer("bulk", "h1", "h2", start=2.0, octets=200_000),
        duration=8.0,
    )
    protocols = {r.node: r.fields["protocol"] for r in sim_lab.events(records, "child_ready")}
    assert protocols == {"gw1": "ah", "gw2": "ah", "h1": "esp", "h2": "esp"}
    assert len(sim_lab.events(records, "ping_received")) == 4
    (done,) = sim_lab.events(records, "transfer_done")
    assert done.fields["octets"] == 200_000
    # The hosts' IKE and ESP meet the gateways' policies as any traffic of theirs.
    assert not sim_lab.events(records, "packet_dropped", reason="no_policy")
