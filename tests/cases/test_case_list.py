"""The 38 cases: each has tests of its number here."""

import re
from pathlib import Path

CASES = range(1, 39)
NAME = re.compile(r"^def test_case_(\d\d)_\w+", re.M)


def numbers_tested():
    texts = (path.read_text() for path in sorted(Path(__file__).parent.glob("test_cases_*.py")))
    return {int(number) for text in texts for number in NAME.findall(text)}


def test_every_case_has_a_test():
    assert numbers_tested() == set(CASES)
