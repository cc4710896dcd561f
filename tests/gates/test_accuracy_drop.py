"""The candidate still classifies correctly."""

import pytest

from compression_gates.evals.metrics.classification import accuracy_drop

pytestmark = pytest.mark.quality


def test_accuracy_drop(pair, gate):
    """The share of right predictions falls by no more than the limit."""
    gate.holds(accuracy_drop(pair.baseline.labels, pair.candidate.labels))
