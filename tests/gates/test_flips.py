"""The candidate answers as the baseline did, even where accuracy would not tell."""

import pytest

from compression_gates.evals.metrics.classification import flips

pytestmark = pytest.mark.quality


def test_flips(pair, gate):
    """No more than the limit's share of the predictions changes, right or wrong."""
    gate.holds(flips(pair.baseline.predicted, pair.candidate.predicted))
