"""The table of docs/closed-forms.md: `handshake_time` under loss, worked out and not measured.

python benchmarks/closed_form.py
"""

from __future__ import annotations

from ipseclab.ike.config import Retransmission
from ipseclab.measure.closed_form import handshake

RTT = 0.04
LOSSES = (0.0, 0.05, 0.10, 0.15, 0.20, 0.30)
FORGETFUL = 30.0
"""Seconds that a responder less patient than ours keeps a half-open IKE_SA."""
HEADINGS = (
    "loss each way",
    "mean (s), H infinite",
    "mean (s), H = 30 s",
    "deviation (s)",
    "95 % within (s)",
    "fails",
)


def main() -> None:
    """Print the table as Markdown."""
    print("|", " | ".join(HEADINGS), "|")
    print("|" + "---|" * len(HEADINGS))
    for loss in LOSSES:
        free = handshake(Retransmission(), RTT, loss_out=loss, loss_back=loss)
        bound = handshake(
            Retransmission(), RTT, loss_out=loss, loss_back=loss, half_open_timeout=FORGETFUL
        )
        cells = (
            f"{loss * 100:.0f} %",
            f"{free.mean:.3f}",
            f"{bound.mean:.3f}",
            f"{free.deviation:.3f}",
            f"{free.quantile(0.95):.2f}",
            f"{bound.failure:.2g}",
        )
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
