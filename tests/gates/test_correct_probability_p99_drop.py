"""The candidate loses the correct token almost nowhere."""

import pytest

pytestmark = pytest.mark.quality


def test_correct_probability_p99_drop(pair, gate):
    """The probability of the correct token falls by at most the limit at 99 % of the tokens."""
    gate.holds(gate.read(pair))
