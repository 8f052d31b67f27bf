"""The cost table: which operation costs what, and files that are refused."""

import json

import pytest

from ipseclab.errors import ConfigError
from ipseclab.registry import ExchangeType, KeMethod, PayloadType
from ipseclab.sim.costs import ENCAPSULATE, CostTable, PacketCost

TABLE = CostTable(
    machine="test",
    ike_message=1e-3,
    ke_generate={"CURVE25519": 2e-3, "MODP_2048": 5e-3},
    ke_agree={"CURVE25519": 3e-3},
    esp_seal={"aes128gcm16": PacketCost(1e-5, 1e-8)},
    esp_open={"aes128gcm16": PacketCost(2e-5, 0.0)},
    forward=1e-4,
    wake=3e-4,
)


def message(exchange: ExchangeType, payloads: list[tuple[PayloadType, bytes]]) -> bytes:
    """An IKE message of generic payloads, by hand."""
    kinds = [int(kind) for kind, _ in payloads] + [0]
    body = b"".join(
        bytes([following, 0]) + (4 + len(data)).to_bytes(2, "big") + data
        for following, (_, data) in zip(kinds[1:], payloads, strict=True)
    )
    head = bytes(16) + bytes([kinds[0], 0x20, exchange, 0x08]) + bytes(4)
    return head + (28 + len(body)).to_bytes(4, "big") + body


def ke(method: KeMethod) -> tuple[PayloadType, bytes]:
    return PayloadType.KE, int(method).to_bytes(2, "big") + bytes(2 + 32)


INIT, CHILD = ExchangeType.IKE_SA_INIT, ExchangeType.CREATE_CHILD_SA


def test_ike_sa_init_costs_the_key_exchange_that_it_shows() -> None:
    octets = message(INIT, [(PayloadType.SA, bytes(40)), ke(KeMethod.CURVE25519)])
    assert TABLE.for_ike_message(octets, sent=True) == pytest.approx(3e-3)
    assert TABLE.for_ike_message(octets, sent=False) == pytest.approx(4e-3)
    octets = message(INIT, [ke(KeMethod.MODP_2048), (PayloadType.NONCE, bytes(32))])
    assert TABLE.for_ike_message(octets, sent=True) == pytest.approx(6e-3)
    assert TABLE.for_ike_message(octets, sent=False) == pytest.approx(1e-3)


def test_a_kems_responder_works_once() -> None:
    kem = KeMethod.ML_KEM_768
    own, peer = {kem.name: 5.0}, {kem.name: 7.0, f"{kem.name} {ENCAPSULATE}": 11.0}
    table = CostTable(ke_generate=own, ke_agree=peer)
    request = message(INIT, [ke(kem)])
    response = request[:19] + b"\x20" + request[20:]
    assert table.for_ike_message(request, sent=True) == 5.0
    assert table.for_ike_message(request, sent=False) == 11.0
    assert table.for_ike_message(response, sent=True) == 0.0
    assert table.for_ike_message(response, sent=False) == 7.0


def test_a_message_without_key_exchange_costs_the_message_alone() -> None:
    for exchange in (INIT, ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL):
        octets = message(exchange, [(PayloadType.NOTIFY, bytes(8))])
        assert TABLE.for_ike_message(octets, sent=True) == 1e-3


def test_create_child_sa_costs_the_method_that_the_caller_names() -> None:
    octets = message(CHILD, [(PayloadType.SK, bytes(200))])
    assert TABLE.for_ike_message(octets, sent=True) == pytest.approx(3e-3)
    method = KeMethod.MODP_2048
    assert TABLE.for_ike_message(octets, sent=True, method=method) == pytest.approx(6e-3)
    assert TABLE.for_ike_message(octets, sent=True, method=None) == 1e-3


def test_octets_that_are_no_message_still_cost_one() -> None:
    whole = message(INIT, [(PayloadType.SA, bytes(40)), ke(KeMethod.CURVE25519)])
    for size in range(len(whole)):
        assert TABLE.for_ike_message(whole[:size], sent=False) in (1e-3, 4e-3)
    # a payload of length 0 must not hold the walk up for ever
    assert TABLE.for_ike_message(bytes(16) + b"\x21\x20\x22\x08" + bytes(400), sent=True) == 1e-3


def test_esp_costs_by_packet_and_octet() -> None:
    assert TABLE.for_esp(1000, sent=True) == pytest.approx(2e-5)
    assert TABLE.for_esp(1000, sent=False) == pytest.approx(2e-5)
    assert TABLE.for_esp(0, sent=True) == pytest.approx(1e-5)
    assert TABLE.for_esp(1000, sent=True, suite="aes256-sha512") == 0.0
    assert TABLE.for_forward() == 1e-4


def test_zero_costs_nothing() -> None:
    zero = CostTable.zero()
    octets = message(INIT, [ke(KeMethod.CURVE25519)])
    assert zero.for_ike_message(octets, sent=True) == 0.0
    assert zero.for_esp(1400, sent=False) == 0.0
    assert zero.for_forward() == 0.0


def test_json_round_trip() -> None:
    assert CostTable.from_json(TABLE.to_json()) == TABLE
    assert CostTable.from_json(CostTable.zero().to_json()) == CostTable.zero()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"forward": -1}, "costs.json: forward: expected seconds, 0 or more, found -1"),
        ({"forward": True}, "expected seconds"),
        ({"ike_message": "fast"}, "costs.json: ike_message: expected seconds"),
        ({"ke_agree": []}, "costs.json: ke_agree: expected an object"),
        ({"ke_agree": {"CURVE25519": None}}, "ke_agree: CURVE25519: expected seconds"),
        ({"esp_seal": {"aes128gcm16": 1.0}}, "esp_seal.aes128gcm16: expected packet and octet"),
        ({"esp_seal": {"x": {"packet": 1.0, "octet": -1.0}}}, "octet: expected seconds"),
        ({"colour": "blue"}, "expected an object with the keys machine ike_message"),
    ],
)
def test_a_bad_table_is_refused(change: dict[str, object], complaint: str) -> None:
    content = json.loads(TABLE.to_json()) | change
    with pytest.raises(ConfigError, match=complaint):
        CostTable.from_json(json.dumps(content), "costs.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"machine": NaN}'])
def test_what_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        CostTable.from_json(text)


def test_a_slower_stack_is_slower_in_ike_and_esp_alone() -> None:
    slower = TABLE.slower(3.0)
    assert slower.ike_message == pytest.approx(3e-3)
    assert slower.ke_generate == pytest.approx({"CURVE25519": 6e-3, "MODP_2048": 15e-3})
    assert slower.for_esp(1000, sent=True) == pytest.approx(3 * TABLE.for_esp(1000, sent=True))
    assert (slower.forward, slower.wake) == (TABLE.forward, TABLE.wake)
    assert CostTable.from_json(slower.to_json()) == slower
