"""Whole stacks under every order of events: drawn schedules, all small orders, and what must hold.

Two or three real gateways in virtual time, without a world around them. `schedule` draws what is
done and what befalls each message from a seed, `invariants` says what must hold, `shrink` makes a
failing schedule short, and `explore` walks through all orders of two exchanges that overlap.
"""
