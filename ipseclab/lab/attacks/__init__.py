"""Who sits in the path and means harm: reads, alters, drops, replays, reorders and injects packets.

An attacker has no keys: it knows what stands in clear, and what the lab's files tell it to do. Each
attack is a rule (`attack.py`): which packets it is about, and what happens to them.
"""

from ipseclab.lab.attacks.attack import Attack
from ipseclab.lab.attacks.attacker import (
    Attacker,
    AttackerDrop,
    AttackResult,
    NothingAttacked,
    require_attacks,
)
from ipseclab.lab.attacks.rule import Tally

__all__ = [
    "Attack",
    "AttackResult",
    "Attacker",
    "AttackerDrop",
    "NothingAttacked",
    "Tally",
    "require_attacks",
]
