"""A node's processor: work queues up, and a packet that finds it asleep pays for the waking."""

import pytest

from ipseclab.sim.costs import CostTable
from ipseclab.sim.cpu import ASLEEP_AFTER, Cpu

WAKE = 0.0003


@pytest.fixture
def cpu() -> Cpu:
    return Cpu(CostTable(wake=WAKE))


def test_work_waits_for_the_work_before_it(cpu: Cpu) -> None:
    assert cpu.work(0.0, 0.01, woken=True) == pytest.approx(0.01)
    assert cpu.work(0.005, 0.01, woken=True) == pytest.approx(0.02)


def test_a_packet_that_finds_the_node_asleep_pays_for_the_waking(cpu: Cpu) -> None:
    cpu.work(0.0, 0.0, woken=True)
    late = 2 * ASLEEP_AFTER
    assert cpu.work(late, 0.001, woken=True) == pytest.approx(late + 0.001 + WAKE)
    awake = late + 0.001 + WAKE + ASLEEP_AFTER / 2
    assert cpu.work(awake, 0.001, woken=True) == pytest.approx(awake + 0.001)


def test_what_the_node_does_of_itself_wakes_nobody(cpu: Cpu) -> None:
    assert cpu.work(1.0, 0.001, woken=False) == pytest.approx(1.001)
