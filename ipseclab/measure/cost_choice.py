"""The cost table that a command line names: `default`, `zero` or a file of `calibrate`'s."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ipseclab.sim.costs import CostTable


def cost_text(costs: str) -> str:
    """The table, as JSON text. Raises ConfigError."""
    if costs == "zero":
        return CostTable.zero().to_json()
    if costs == "default":
        return CostTable.default().to_json()
    return CostTable.load(Path(costs)).to_json()


def costs_name(costs: str, text: str) -> str:
    """The table's name in the manifest: another table is another run, whatever its file."""
    return f"{costs} {hashlib.sha256(text.encode()).hexdigest()[:8]}" if text else ""
