import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.lab.units import Quantity, parse_quantity, parse_size

TIME, RATE, SIZE, SHARE = Quantity.TIME, Quantity.RATE, Quantity.SIZE, Quantity.PROBABILITY


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (TIME, 2, 2.0),
        (TIME, "20ms", 0.02),
        (TIME, "20 ms", 0.02),
        (TIME, "1.5us", 1.5e-6),
        (TIME, "3ns", 3e-9),
        (TIME, "2min", 120.0),
        (TIME, "2h", 7200.0),
        (TIME, "0.25", 0.25),
        (TIME, "1e-3s", 0.001),
        (RATE, "10Mbit/s", 1e7),
        (RATE, "64kbit/s", 64e3),
        (RATE, "1Gbit/s", 1e9),
        (RATE, "100bit/s", 100.0),
        (SHARE, "1%", 0.01),
        (SHARE, "100%", 1.0),
        (SHARE, 0, 0.0),
        (SIZE, "64KiB", 65536.0),
        (SIZE, "1MB", 1e6),
    ],
)
def test_quantities(kind, value, expected):
    assert parse_quantity(value, kind) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (TIME, "20m"),
        (TIME, "ms"),
        (TIME, ""),
        (TIME, "-1s"),
        (TIME, -1),
        (TIME, True),
        (TIME, None),
        (TIME, [1]),
        (TIME, float("inf")),
        (TIME, "1e999s"),
        (TIME, "20MS"),
        (RATE, "10MB"),
        (RATE, "10mbit/s"),
        (SHARE, "101%"),
        (SHARE, 1.01),
        (SIZE, "1%"),
    ],
)
def test_what_is_no_quantity(kind, value):
    with pytest.raises(ValueError, match=f"expected {kind.expected[:10]}"):
        parse_quantity(value, kind)


def test_sizes_are_whole():
    assert parse_size("1.5kB") == 1500
    with pytest.raises(ValueError, match="not a whole number"):
        parse_size("1.5B")


@given(st.integers(0, 10**6))
def test_a_unit_gives_the_same_float_as_the_plain_number(number):
    """Or else a sweep over 20ms and one over 0.02 would be different runs."""
    assert parse_quantity(f"{number}ms", TIME) == float(f"{number}e-3")
    assert parse_quantity(f"{number}us", TIME) == float(f"{number}e-6")


@given(st.floats(0, 1e300, allow_nan=False))
def test_a_plain_number_is_itself(number):
    assert parse_quantity(number, TIME) == number
