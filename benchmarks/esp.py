"""ESP through the core: packets/s and bit/s by transform and packet size, one core, no I/O.

Two datapaths in one process; each packet goes through SPD, SAD and ESP, sealed by one and opened by
the other. A gateway that forwards does one of the two for each packet.

    python benchmarks/esp.py --quick --out results/benchmarks
"""

from __future__ import annotations

from rich.progress import track
from table import Row, arguments, publish

from ipseclab.measure.calibrate import Effort, esp_seconds
from ipseclab.measure.workload import esp_suites

SIZES = (64, 512, 1400)
QUICK_SUITES = ("aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128-sha256", "aes256-sha512")
FULL, QUICK = Effort(seconds=1.0, repetitions=10), Effort(seconds=0.1, repetitions=3)


def main() -> None:
    options = arguments(__doc__).parse_args()
    effort = QUICK if options.quick else FULL
    suites = esp_suites()
    names = QUICK_SUITES if options.quick else tuple(suites)
    cases = [(name, size) for name in names for size in SIZES]
    rows: list[Row] = []
    for name, size in track(cases, "ESP", transient=True):
        sealing, opening = esp_seconds(suites[name], size, effort)
        rows.append(
            {
                "suite": name,
                "inner_octets": size,
                "sealed_packets/s": 1 / sealing,
                "opened_packets/s": 1 / opening,
                "sealed_Mbit/s": size * 8 / sealing / 1e6,
                "opened_Mbit/s": size * 8 / opening / 1e6,
            }
        )
    publish("esp", "ESP through the core, tunnel mode, inner packets", rows, options.out)


if __name__ == "__main__":
    main()
