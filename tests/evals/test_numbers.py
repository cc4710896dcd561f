"""Numbers are told apart from their limits with no more digits than that takes."""

import math
from decimal import Decimal

import hypothesis.strategies as st
import pytest
from hypothesis import given

from compression_gates.evals.metrics.units import EXTRA_DIGITS, Unit

TIMES = Unit("x", digits=2)
POINTS = Unit(" pt", digits=2, scale=100, flags="+", end_digits=1)
NATS = Unit(" nats", digits=4)
UNITS = [TIMES, POINTS, NATS, Unit("%", digits=2, scale=100), Unit("", digits=3)]


@pytest.mark.parametrize(
    ("unit", "value", "limit", "text"),
    [
        (TIMES, 0.79920174, 0.8, "0.799x"),
        (TIMES, 0.7996, 0.8, "0.7996x"),
        (TIMES, 0.8, 0.8, "0.80x"),
        (TIMES, 0.60, 0.8, "0.60x"),
        (TIMES, math.nextafter(0.8, 0), 0.8, "just below 0.80x"),
        (TIMES, math.nextafter(0.8, 1), 0.8, "just above 0.80x"),
        (POINTS, -0.02001, -0.02, "-2.001 pt"),
        (POINTS, -0.000001, -0.02, "+0.00 pt"),
        (POINTS, -0.0, -0.02, "+0.00 pt"),
        (NATS, 0.000021, 0.000023, "0.000021 nats"),
        (NATS, math.nan, 0.1, "nan nats"),
    ],
)
def test_a_value_beside_its_limit(unit, value, limit, text):
    assert unit.beside(value, limit) == text


@given(st.sampled_from(UNITS), st.floats(-10, 10), st.floats(-10, 10))
def test_two_numbers_never_read_alike_unless_they_are(unit, value, other):
    text = unit.beside(value, other)
    assert (text == unit(other) and text == unit.beside(other, other)) <= (value == other)


@given(st.sampled_from(UNITS), st.floats(-10, 10), st.floats(-10, 10))
def test_no_digit_is_written_that_tells_nothing(unit, value, other):
    text = unit.beside(value, other, bare=True)
    if text.startswith("just"):
        assert abs(value - other) * unit.scale <= 10.0 ** -(unit.digits + EXTRA_DIGITS)
        return
    places = -Decimal(text.rstrip("x%")).as_tuple().exponent
    assert places >= unit.digits
    if places > unit.digits:  # one place fewer would not have told them apart
        fewer = [f"{number * unit.scale:z.{places - 1}f}" for number in (value, other)]
        assert fewer[0] == fewer[1]


@pytest.mark.parametrize(
    ("unit", "limit", "text"),
    [
        (TIMES, 0.8, "0.80x"),
        (TIMES, 0.825, "0.825x"),
        (POINTS, -0.02, "-2.00 pt"),
        (POINTS, -0.00125, "-0.125 pt"),
        (POINTS, -1 / 30, "-3.33 pt"),
        (NATS, 0.00023, "0.00023 nats"),
        (NATS, 1e-9, "1e-09 nats"),
        (NATS, 0.0, "0.0000 nats"),
    ],
)
def test_a_limit_is_written_as_it_was_given(unit, limit, text):
    assert unit.exactly(limit) == text


def test_a_limit_may_stand_without_its_sign():
    assert POINTS.exactly(0.02, signed=False) == "2.00 pt"
    assert Unit(" bytes", digits=0, flags=",").exactly(1234567) == "1,234,567 bytes"


@pytest.mark.parametrize(
    ("unit", "ends", "limit", "text"),
    [
        (POINTS, (-0.167, -0.104), -0.02, "-16.7 to -10.4 pt"),
        (POINTS, (-0.0199, 0.019), -0.02, "-1.99 to +1.90 pt"),
        (POINTS, (-0.02, 0.019), -0.02, "-2.0 to +1.9 pt"),
        (POINTS, (0.0001, 0.0002), -0.02, "+0.01 to +0.02 pt"),
        (NATS, (0.000002, 0.000003), 0.001, "0.0000 to 0.0000 nats"),
        (POINTS, (-math.inf, math.inf), -0.02, "-inf to +inf pt"),
        (TIMES, (0.77, 0.83), 0.8, "0.77 to 0.83x"),
        (TIMES, (0.797, 0.83), 0.8, "0.797 to 0.830x"),
    ],
)
def test_the_ends_of_an_interval_are_told_from_each_other_and_from_the_limit(
    unit, ends, limit, text
):
    assert unit.interval(*ends, limit) == text
