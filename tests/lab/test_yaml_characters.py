"""Characters that YAML's escapes make: whole ones, or a clear error."""

import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.yaml_read import read_text


def test_two_escapes_of_one_character_are_one():
    found, places = read_text('name: "\\ud83d\\ude00 \\u00e9"\n"\\ud83d\\ude00": 1\n', "f.yaml")
    assert found == {"name": "\U0001f600 é", "\U0001f600": 1}
    assert ("\U0001f600",) in places


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('a: 1\nname: "x\\ud83d"\n', "f.yaml:2:7: name"),
        ('list: [1, "\\ude00\\ud83d"]\n', "f.yaml:1:11: list[1]"),
        ('a:\n  "\\udc80": 1\n', "f.yaml:2:3: a"),
    ],
)
def test_half_a_character_is_refused_where_it_stands(text, place):
    with pytest.raises(ConfigError, match="half a character, expected whole ones") as refused:
        read_text(text, "f.yaml")
    told = str(refused.value)
    assert told.startswith(place)
    assert told.isascii()
    assert "\n" not in told
