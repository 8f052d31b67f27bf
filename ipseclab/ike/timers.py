"""What an IKE endpoint keeps time for; `ipseclab.timers` keeps it."""

from __future__ import annotations

from enum import Enum


class TimerKind(Enum):
    """What the timer of an IKE_SA is for; the text is what a `Deadline` shows."""

    # Looked up with each timer that is set or cancelled: Enum's own hash is a Python function.
    __hash__ = object.__hash__

    RETRANSMIT = "retransmit"
    RETRY = "retry after TEMPORARY_FAILURE"
    HALF_OPEN = "forget an IKE_SA_INIT request"
    SOFT = "IKE_SA soft lifetime"
    HARD = "IKE_SA hard lifetime"
    REAUTH = "reauthentication"
    AUTH_EXPIRED = "authentication is no longer good"
    LIVENESS = "liveness"
    KEEPALIVE = "NAT keepalive"
    REPLACED = "wait for the old IKE_SA's DELETE"
    CANDIDATE = "wait for a rekey collision to end"
    FRAGMENTS = "forget an incomplete message"
    HALF_MADE = "an SA whose key exchanges are not all done is given up"
    STREAM = "a TCP connection that nothing uses, or is to be opened again"
    FORGET = "forget a closed IKE_SA"
