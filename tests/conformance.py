"""The page docs/conformance.md: each requirement of the RFCs that ipseclab implements, its test.

A catalogue an RFC (`tests/requirements/*.yaml`) lists the requirements, in words of our own. A test
says which one it holds by a marker:

    @pytest.mark.rfc("7296", "2.1", "MUST", "same-octets")

the RFC, the section, the word, and the rule's name where a section has several of that word. A
requirement without a test needs `absent:`, the reason why it does not apply, or why we depart from
it, which begins with "Departure". Run as a command it writes the page; with --check it fails when
page, catalogues and markers differ.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
CATALOGUES = ROOT / "tests" / "requirements"
PAGE = ROOT / "docs" / "conformance.md"
LEVELS = ("MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY")
COMMAND = "python tests/conformance.py"
DEPARTURE = "Departure"

Key = tuple[str, str, str, str]
"""RFC, section, level, rule."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement; `absent`: why no test of it can be."""

    rfc: str
    section: str
    level: str
    rule: str
    says: str
    absent: str = ""

    @property
    def key(self) -> Key:
        return self.rfc, self.section, self.level, self.rule


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The requirements of one RFC, in its order."""

    rfc: str
    title: str
    requirements: tuple[Requirement, ...]


@dataclass(slots=True, eq=False)
class Markers:
    """A pytest plugin that gathers which test function claims which requirement."""

    claims: dict[tuple[str, ...], set[str]] = field(default_factory=lambda: defaultdict(set))

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        for marker in item.iter_markers("rfc"):
            self.claims[tuple(map(str, marker.args))].add(item.nodeid.split("[")[0])


def load_catalogues(folder: Path = CATALOGUES) -> list[Catalogue]:
    """All catalogues, by RFC number. Raises ValueError for one that is not as it should be."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        text = YAML(typ="safe", pure=True).load(path.read_text())
        rows = [_requirement(str(text["rfc"]), row, path) for row in text["requirements"]]
        keys = [row.key for row in rows]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f"{path.name}: listed twice: {sorted(twice)}")
        found.append(Catalogue(str(text["rfc"]), text["title"], tuple(rows)))
    return sorted(found, key=lambda catalogue: int(catalogue.rfc))


def _requirement(rfc: str, row: Mapping[str, str], path: Path) -> Requirement:
    unknown = set(row) - {"section", "level", "rule", "says", "absent"}
    if unknown or row["level"] not in LEVELS or not isinstance(row["section"], str):
        raise ValueError(f"{path.name}: not a requirement: {dict(row)}")
    return Requirement(rfc, **row)


def collect() -> Markers:
    """The markers of all tests, by pytest's own collection."""
    markers = Markers()
    quiet = ["--collect-only", "-qq", "--no-header", "--no-summary", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = pytest.main([*quiet, str(ROOT / "tests")], plugins=[markers])
    if code != pytest.ExitCode.OK:
        raise ValueError(f"pytest could not collect the tests:\n{said.getvalue()}")
    return markers


def match(
    catalogues: Sequence[Catalogue], claims: Mapping[tuple[str, ...], set[str]]
) -> tuple[dict[Key, list[str]], list[str]]:
    """The tests of each requirement, and what is wrong: markers of no requirement, requirements
    with neither a test nor a reason, or with both."""
    requirements = {row.key: row for catalogue in catalogues for row in catalogue.requirements}
    tests: dict[Key, list[str]] = {key: [] for key in requirements}
    wrong = []
    for claim, names in sorted(claims.items()):
        matching = [key for key in requirements if key[: len(claim)] == claim]
        if len(claim) < 3 or len(matching) != 1:
            wrong.append(f"{sorted(names)[0]}: marker {claim} is of {len(matching)} requirements")
        else:
            tests[matching[0]] = sorted({*tests[matching[0]], *names})
    for key, row in requirements.items():
        if not tests[key] and not row.absent:
            wrong.append(f"{' '.join(key)}: no test, and no reason why there is none")
        if tests[key] and row.absent:
            wrong.append(f"{' '.join(key)}: said to be absent, but tested by {tests[key][0]}")
    return tests, wrong


def render(catalogues: Iterable[Catalogue], tests: Mapping[Key, Sequence[str]]) -> str:
    """The page."""
    catalogues = tuple(catalogues)
    lines = [
        "# Conformance",
        "",
        "Each requirement of the RFCs that ipseclab implements, in words of our own, with the",
        "tests that fail without it, the reason why it does not apply, or why we depart from it.",
        f"Made by `{COMMAND}` from `tests/requirements/` and the tests' markers;",
        "`make check` fails when it is out of date.",
        "",
        "| RFC | requirements | tested | do not apply | departures |",
        "|---|---|---|---|---|",
    ]
    for one in catalogues:
        departures = sum(row.absent.startswith(DEPARTURE) for row in one.requirements)
        absent = sum(bool(row.absent) for row in one.requirements) - departures
        total = len(one.requirements)
        counts = (total, total - absent - departures, absent, departures)
        lines.append(f"| [{one.rfc}](#rfc-{one.rfc}) | {' | '.join(map(str, counts))} |")
    for one in catalogues:
        lines += ["", f"## RFC {one.rfc}", "", one.title, ""]
        lines += ["| section | level | requirement | test |", "|---|---|---|---|"]
        for row in one.requirements:
            where = "<br>".join(_link(name) for name in tests[row.key]) or row.absent
            lines.append(f"| {row.section} | {row.level} | {_cell(row.says)} | {_cell(where)} |")
    return "\n".join(lines) + "\n"


def _link(test: str) -> str:
    path, name = test.split("::", 1)
    return f"[{name.replace('::', '.')}](../{path})"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description="Make docs/conformance.md from markers.")
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    options = parser.parse_args(arguments)
    catalogues = load_catalogues()
    tests, wrong = match(catalogues, collect().claims)
    page = render(catalogues, tests)
    if options.check and (not PAGE.exists() or PAGE.read_text() != page):
        wrong.append(f"{PAGE.relative_to(ROOT)} is out of date: run {COMMAND}")
    for line in wrong:
        print(line, file=sys.stderr)
    if not options.check:
        PAGE.write_text(page)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
