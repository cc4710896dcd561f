"""The candidate still answers questions, word for word."""

import pytest

from compression_gates.evals.metrics.answers import exact_match_drop

pytestmark = pytest.mark.quality


def test_exact_match_drop(pair, gate):
    """The share of exactly right answers falls by no more than the limit."""
    gate.holds(exact_match_drop(pair.baseline.answers, pair.candidate.answers))
