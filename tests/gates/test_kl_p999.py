"""The candidate predicts what the baseline predicts at all but one in 1,000 tokens."""

import pytest

pytestmark = pytest.mark.quality


def test_kl_p999(pair, gate):
    """The 99.9 % quantile of KL(baseline || candidate) of the predictions is at most the limit."""
    gate.holds(gate.read(pair))
