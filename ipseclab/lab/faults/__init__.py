"""Faults on purpose: what one gateway's messages suffer, and what it does wrong.

`fault` says what a fault is, `content` changes what a message says, sealed or not, and `gateway` is
a gateway that suffers from them. The protocol core knows nothing of it.
"""

from ipseclab.lab.faults.fault import Fault
from ipseclab.lab.faults.gateway import FaultyGateway, gateway_with

__all__ = ["Fault", "FaultyGateway", "gateway_with"]
