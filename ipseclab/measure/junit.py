"""Verdicts as JUnit XML, which CI services show: suites of cases that passed, failed or were
skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from xml.etree import ElementTree

_NOT_XML = dict.fromkeys(
    [
        *(code for code in range(0x20) if chr(code) not in "\t\n\r"),
        *range(0xD800, 0xE000),
        0xFFFE,
        0xFFFF,
    ]
)
"""What XML 1.0 section 2.2 leaves out, halves of surrogate pairs among it."""


class Outcome(Enum):
    """What a case can come to."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a suite; the message of one that passed is not shown."""

    name: str
    outcome: Outcome
    message: str = ""
    seconds: float = 0.0


def junit_xml(name: str, suites: Mapping[str, Sequence[Case]]) -> str:
    """The document; each suite under its name."""
    every = [case for cases in suites.values() for case in cases]
    root = ElementTree.Element("testsuites", {"name": _plain(name), **_counts(every)})
    for title, cases in suites.items():
        attributes = {"name": _plain(title), **_counts(cases)}
        attributes["time"] = f"{sum(case.seconds for case in cases):.3f}"
        suite = ElementTree.SubElement(root, "testsuite", attributes)
        suite.extend(_element(title, case) for case in cases)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(case.outcome is Outcome.FAILED for case in cases)),
        "skipped": str(sum(case.outcome is Outcome.SKIPPED for case in cases)),
    }


def _element(suite: str, case: Case) -> ElementTree.Element:
    element = ElementTree.Element(
        "testcase", classname=_plain(suite), name=_plain(case.name), time=f"{case.seconds:.3f}"
    )
    if case.outcome is Outcome.FAILED:
        ElementTree.SubElement(element, "failure", message=_plain(case.message))
    elif case.outcome is Outcome.SKIPPED:
        ElementTree.SubElement(element, "skipped", message=_plain(case.message))
    return element


def _plain(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return text.translate(_NOT_XML)
