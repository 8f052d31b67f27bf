"""The gallery: every experiment that has a page in docs/experiments is run, its expectations are
judged, and the pictures of its page are drawn again.

With --quick each runs its coarser grid, and pictures go to DIR/pictures; without, at full size, the
pictures in docs/experiments are replaced. Exit code 1 when an experiment did not hold.

    python benchmarks/gallery.py --quick --out out/gallery
    python benchmarks/gallery.py --world netns --quick --only ah-and-nat
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from table import Row, arguments, publish

from ipseclab.measure.experiment import load_experiment

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "experiments"
PICTURES: Mapping[str, Mapping[str, str]] = {
    "ah-and-nat": {"": "delivered"},
    "attacks": {"": "attacks"},
    "mtu": {"lost": "sweep-ping_lost", "sizes": "sweep-inner_path_mtu"},
    "nat-zoo": {},
    "ports-and-protocols": {"": "delivered"},
    "pq-handshake": {"time": "time-rtt"},
    "rekey-behaviour": {"packets": "timeline-packets", "short": "timeline-short"},
    "traffic-analysis": {"": "observer"},
    "tcp-encapsulation": {"goodput": "sweep-goodput", "time": "sweep-handshake_time"},
}
"""Of experiments whose figures have other names than their pictures: what stands behind the
experiment's name in the picture's, and the figure's stem."""
OTHERS = ("ipsec-vs-ssl",)
"""Pages of commands of their own."""
VERDICTS = {0: "held", 1: "did not hold", 2: "bad input", 3: "not on this machine"}


def names() -> tuple[str, ...]:
    """The experiments that a page shows pictures of."""
    owners = (owner_of(picture.stem) for picture in sorted(PAGES.glob("*.png")))
    return tuple(dict.fromkeys(name for name in owners if name not in ("", *OTHERS)))


def owner_of(picture: str) -> str:
    """The experiment that a picture is of: the longest name that it begins with."""
    known = (path.stem for path in ROOT.glob("experiments/*.yaml"))
    return max((name for name in known if picture.startswith(name)), key=len, default="")


def pictures_of(name: str) -> dict[str, str]:
    """An experiment's pictures, each with the stem of the figure that it is of."""
    found = {}
    for picture in sorted(PAGES.glob(f"{name}*.png")):
        if owner_of(picture.stem) == name:
            rest = picture.stem.removeprefix(name).removeprefix("-")
            found[picture.name] = PICTURES.get(name, {}).get(rest, rest)
    return found


def run(name: str, options: argparse.Namespace) -> Row:
    """Run one, take its pictures over; a row of the table."""
    folder = options.out / "runs" / f"{name}-{options.world}"
    command = [sys.executable, "-m", "ipseclab", "run", name, "--world", options.world]
    command += ["--out", str(folder), *(["--quick"] if options.quick else [])]
    command += ["--jobs", str(options.jobs)] if options.jobs else []
    before = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - before
    sys.stderr.write(done.stderr)
    taken = _take_pictures(name, folder, options) if done.returncode in (0, 1) else 0
    return {
        "experiment": name,
        "verdict": VERDICTS.get(done.returncode, f"exit code {done.returncode}"),
        "seconds": round(seconds, 1),
        "pictures": taken,
    }


def _take_pictures(name: str, folder: Path, options: argparse.Namespace) -> int:
    """Copy the figures that are on the page; how many there were."""
    target = PAGES
    if options.quick or options.world != "sim":
        target = options.out / "pictures"
        target.mkdir(parents=True, exist_ok=True)
    taken = 0
    for picture, stem in pictures_of(name).items():
        figure = folder / "figures" / f"{stem}.png"
        if figure.is_file():
            shutil.copyfile(figure, target / picture)
            taken += 1
    return taken


def main() -> None:
    """Run all, or those that are asked for."""
    parser = arguments(__doc__)
    parser.add_argument("--world", choices=("sim", "netns"), default="sim")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", choices=names())
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="runs at the same time")
    options = parser.parse_args()
    rows = [run(name, options) for name in _asked(options)]
    total = sum(float(row["seconds"]) for row in rows)
    publish(f"gallery-{options.world}", {"Gallery": rows}, options, [f"{total:.0f} s in all"])
    sys.exit(any(row["verdict"] != "held" for row in rows))


def _asked(options: argparse.Namespace) -> Sequence[str]:
    """Those asked for that the world can run."""
    wanted = options.only or names()
    worlds = {name: load_experiment(name).file.worlds for name in wanted}
    return [name for name in wanted if options.world in worlds[name]]


if __name__ == "__main__":
    main()
