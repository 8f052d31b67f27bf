"""Calibration measures something for every operation, and its work is what it says it is."""

import pytest

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.kex import KE_METHODS, MlKem
from ipseclab.ipsec.counters import DropReason
from ipseclab.measure.calibrate import Effort, calibrate
from ipseclab.measure.workload import (
    datapath_pair,
    esp_suites,
    gateway_pair,
    handshake,
    inner_packet,
    open_packets,
    seal_packets,
)
from ipseclab.outputs import Output
from ipseclab.sim.costs import ENCAPSULATE, CostTable

ROWS_OF_AGREE = {method.name for method in KE_METHODS} | {
    f"{method.name} {ENCAPSULATE}" for method, e in KE_METHODS.items() if isinstance(e, MlKem)
}
LITTLE = Effort(seconds=0.0, repetitions=2, handshakes=3, pause=0.0, in_lab=0)


def test_calibrate_fills_the_whole_table_and_tells_how_far_it_is() -> None:
    told: list[tuple[float, str]] = []
    table = calibrate(lambda share, what: told.append((share, what)), LITTLE)
    assert table.ke_generate.keys() == {method.name for method in KE_METHODS}
    assert table.ke_agree.keys() == ROWS_OF_AGREE
    assert table.esp_seal.keys() == table.esp_open.keys() == esp_suites().keys()
    assert all(seconds > 0.0 for seconds in (*table.ke_generate.values(), table.forward))
    assert all(cost.of(1000) > 0.0 for cost in (*table.esp_seal.values(), *table.esp_open.values()))
    assert table.ike_message > 0.0
    # a thirty-fold difference: no noise hides it
    assert table.ke_agree["MODP_4096"] > table.ke_agree["CURVE25519"]
    assert CostTable.from_json(table.to_json()) == table
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_the_table_that_comes_along_is_complete() -> None:
    table = CostTable.default()
    assert table.ke_generate.keys() == {method.name for method in KE_METHODS}
    assert table.ke_agree.keys() == ROWS_OF_AGREE
    assert table.esp_seal.keys() == table.esp_open.keys() == esp_suites().keys()
    assert 1e-6 < table.ike_message < 1e-2
    assert 1e-6 < table.forward < 1e-2
    assert table.machine


def test_esp_suites_are_all_that_there_are() -> None:
    suites = esp_suites()
    aead = [cipher for cipher in CIPHERS.values() if cipher.aead]
    blocks = [cipher for cipher in CIPHERS.values() if not cipher.aead]
    assert len(suites) == len(aead) + len(blocks) * len(INTEGRITIES)
    assert next(iter(suites)) == "aes128gcm16"
    assert suites["aes256-sha384"].icv_size == 24


@pytest.mark.parametrize("tunnel", [True, False])
@pytest.mark.parametrize("suite", ["aes128gcm16", "aes256-sha512", "chacha20poly1305"])
def test_packets_go_through(suite: str, tunnel: bool) -> None:
    sender, receiver = datapath_pair(esp_suites()[suite], tunnel=tunnel)
    sealed = seal_packets(sender, inner_packet(100), 5)
    assert len(set(sealed)) == 5
    open_packets(receiver, sealed)
    assert receiver.counters.packets_in == 5
    with pytest.raises(AssertionError):
        open_packets(receiver, sealed[:1])  # a replay is no delivery
    assert receiver.counters.drops[DropReason.REPLAYED] == 1


def test_a_handshake_is_four_messages_and_leaves_a_child_sa() -> None:
    initiator, responder = gateway_pair("aes128gcm16-prfsha256-x25519", "aes128gcm16", seed=1)
    steps: list[str] = []

    def timed(name: str, step: object) -> list[Output]:
        steps.append(name)
        assert callable(step)
        outputs: list[Output] = step()
        return outputs

    assert handshake(initiator, responder, timed) == 4
    assert steps == ["a", "b", "a", "b", "a"]
    for gateway in (initiator, responder):
        (ike_sa,) = gateway.status().ike_sas
        assert len(ike_sa.children) == 1
