"""The candidate still answers questions, word for word."""

import pytest

pytestmark = pytest.mark.quality


def test_exact_match_drop(pair, gate):
    """The share of exactly right answers falls by no more than the limit."""
    gate.holds(gate.read(pair))
