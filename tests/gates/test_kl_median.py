"""The candidate predicts what the baseline predicts at an ordinary token."""

import pytest

pytestmark = pytest.mark.quality


def test_kl_median(pair, gate):
    """The median of KL(baseline || candidate) over the predictions is at most the limit."""
    gate.holds(gate.read(pair))
