"""The 38 cases: each has tests of its number here, or is named among those that wait."""

import re
from pathlib import Path

CASES = range(1, 39)
WAITING = {
    20: "reauthentication",
    32: "MOBIKE",
}
"""What is not in the stack yet."""
NAME = re.compile(r"^def test_case_(\d\d)_\w+", re.M)


def numbers_tested():
    texts = (path.read_text() for path in sorted(Path(__file__).parent.glob("test_cases_*.py")))
    return {int(number) for text in texts for number in NAME.findall(text)}


def test_every_case_has_a_test_or_says_what_it_waits_for():
    assert numbers_tested() | set(WAITING) == set(CASES)
    assert not numbers_tested() & set(WAITING)
