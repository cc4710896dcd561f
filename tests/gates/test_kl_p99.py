"""The candidate predicts what the baseline predicts at all but one in 100 tokens."""

import pytest

pytestmark = pytest.mark.quality


def test_kl_p99(pair, gate):
    """The 99 % quantile of KL(baseline || candidate) over the predictions is at most the limit."""
    gate.holds(gate.read(pair))
