"""The candidate repeats itself no more than the baseline."""

import pytest

pytestmark = pytest.mark.quality


def test_repetition_rise(pair, gate):
    """The mean share of repeated 4-grams in a text rises by no more than the limit."""
    gate.holds(gate.read(pair))
