"""What the datapath keeps time for; `ipseclab.timers` keeps it."""

from __future__ import annotations

from enum import Enum


class TimerKind(Enum):
    """Why the datapath wants to be called; the value is the `why` of its `Deadline`."""

    SOFT_LIFETIME = "esp_soft_lifetime"
    HARD_LIFETIME = "esp_hard_lifetime"
    LINGER = "esp_linger"
    ACTIVATE = "esp_activate"
    PARK = "esp_park"
    DUMMY = "esp_dummy"
    CONSTANT_RATE = "esp_constant_rate"
    REASSEMBLY = "esp_reassembly"
