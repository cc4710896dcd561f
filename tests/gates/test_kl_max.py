"""The candidate predicts what the baseline predicts at every token."""

import pytest

pytestmark = pytest.mark.quality


def test_kl_max(pair, gate):
    """The largest KL(baseline || candidate) of a prediction is at most the limit."""
    gate.holds(gate.read(pair))
