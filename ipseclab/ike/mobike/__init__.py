"""MOBIKE (RFC 4555): an IKE_SA and its CHILD_SAs go on while addresses change.

settings    what a connection is told            state    what an IKE_SA remembers
notifies    the notifications' octets            paths    pairs of addresses, and which to take
tasks       requests: update, list, checks       answer   the exchange responder's half
change      own addresses change, paths are taken into use
"""
