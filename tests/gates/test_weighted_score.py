"""The candidate is worth it: what it keeps, saves and gains, weighed together."""

import pytest

pytestmark = pytest.mark.efficiency


def test_weighted_score(pair, gate):
    """w_A * task score + w_CR * compression ratio + w_IS * speedup reaches the limit."""
    gate.holds(gate.read(pair))
