"""The candidate still summarises."""

import pytest

pytestmark = pytest.mark.quality


def test_rouge1_drop(pair, gate):
    """The mean ROUGE-1 of summaries falls by no more than the limit."""
    gate.holds(gate.read(pair))
