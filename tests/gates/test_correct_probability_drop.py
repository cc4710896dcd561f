"""The candidate gives the correct token about as much probability as the baseline."""

import pytest

pytestmark = pytest.mark.quality


def test_correct_probability_drop(pair, gate):
    """The mean probability of the correct token falls by no more than the limit."""
    gate.holds(gate.read(pair))
