"""The candidate still classifies correctly."""

import pytest

pytestmark = pytest.mark.quality


def test_accuracy_drop(pair, gate):
    """The share of right predictions falls by no more than the limit."""
    gate.holds(gate.read(pair))
