"""The probability of the correct token changes little."""

import pytest

pytestmark = pytest.mark.quality


def test_correct_probability_rms(pair, gate):
    """The root mean square of its change is at most the limit."""
    gate.holds(gate.read(pair))
