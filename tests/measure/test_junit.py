"""JUnit XML whatever the words in it are: a name from a file may hold any character."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from ipseclab.measure.junit import Case, Outcome, junit_xml

ANYTHING = st.text(st.characters(codec=None, categories=None))


@given(ANYTHING, st.sampled_from(["a\ufffeb", "a\uffffb", "a\ud800b", "a\x00b", "a\x1fb"]))
def test_any_characters_make_a_document_that_can_be_read(text: str, special: str) -> None:
    words = text + special
    made = junit_xml(words, {words: [Case(words, Outcome.FAILED, words)]})
    (suite,) = ElementTree.fromstring(made.encode())
    assert suite.get("failures") == "1"
    (case,) = suite
    assert str(case.get("name")).endswith("ab")
