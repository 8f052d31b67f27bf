import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.impairment import Bernoulli, GilbertElliott, ImpairmentConfig
from ipseclab.lab.link_set import with_settings

BEFORE = (ImpairmentConfig(delay=0.1), ImpairmentConfig(delay=0.2, loss=Bernoulli(0.5)))


def test_both_directions_change_and_keep_what_was_not_named():
    forward, backward = with_settings(BEFORE, {"loss": 0.1, "rate": "1Mbit/s"})
    assert forward == ImpairmentConfig(delay=0.1, loss=Bernoulli(0.1), rate=1e6)
    assert backward == ImpairmentConfig(delay=0.2, loss=Bernoulli(0.1), rate=1e6)


@pytest.mark.parametrize(("direction", "changed"), [("forward", 0), ("backward", 1)])
def test_one_direction_changes(direction, changed):
    after = with_settings(BEFORE, {"direction": direction, "delay": "7ms"})
    assert after[changed].delay == 0.007
    assert after[1 - changed] == BEFORE[1 - changed]


def test_what_a_file_may_say_may_be_set():
    settings = {
        "jitter": 0.001,
        "jitter_distribution": "normal",
        "loss": {"p": 0.1, "r": 0.2},
        "queue_packets": 3,
        "queue_octets": 3000,
    }
    after, _ = with_settings(BEFORE, settings)
    assert (after.jitter_distribution, after.queue_packets) == ("normal", 3)
    assert after.queue_octets == 3000
    assert after.loss == GilbertElliott(0.1, 0.2)
    assert with_settings((after, after), {"loss": None})[0].loss is None


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"direction": "up"}, "direction 'up' is unknown, expected one of forward, backward, both"),
        ({"los": 1}, "'los' is unknown, did you mean 'loss'?"),
        ({"loss": 2}, "loss: 2 is out of range, expected a number from 0 to 1, or a text like 1%"),
        ({"queue_packets": -5}, "queue_packets: Input should be greater than or equal to 0"),
        (
            {"mtu": 1280},
            "mtu is fixed while the lab is up, expected in the topology file: interfaces and "
            "tunnels are made for it",
        ),
    ],
)
def test_bad_settings_are_told(settings, problem):
    with pytest.raises(ConfigError) as caught:
        with_settings(BEFORE, settings)
    assert str(caught.value) == f"link_set: {problem}"
