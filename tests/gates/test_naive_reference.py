"""The candidate diverges no more than its baseline with the same compression, made naively."""

import pytest

pytestmark = pytest.mark.quality


def test_naive_reference(pair, gate):
    """The divergence is at most the limit times that of rounding to nearest, magnitude pruning and
    truncated SVD in the same layers."""
    gate.holds(gate.read(pair))
