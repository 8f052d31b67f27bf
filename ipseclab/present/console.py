"""Where tables go: the terminal, or a file or pipe that has no width of its own."""

from __future__ import annotations

from rich.console import Console

LOG_WIDTH = 160


def console() -> Console:
    """A console for standard output."""
    made = Console(highlight=False)
    # In a file or a pipe nothing is folded: there is no edge to fit.
    return made if made.is_terminal else Console(highlight=False, width=LOG_WIDTH)
