"""IKE_AUTH as a whole: rounds of authentication by either end, and the first CHILD_SA.

`rounds` has the exchange's picture; `initiator` and `responder` are its halves; `methods` makes and
verifies AUTH payloads; `extension` is what other features hang their payloads on.
"""
