"""The candidate predicts what the baseline predicts at nine of ten tokens."""

import pytest

pytestmark = pytest.mark.quality


def test_kl_p90(pair, gate):
    """The 90 % quantile of KL(baseline || candidate) over the predictions is at most the limit."""
    gate.holds(gate.read(pair))
