"""The candidate still summarises."""

import pytest

from compression_gates.evals.metrics.rouge import rouge1_drop

pytestmark = pytest.mark.quality


def test_rouge1_drop(pair, gate):
    """The mean ROUGE-1 of summaries falls by no more than the limit."""
    gate.holds(rouge1_drop(pair.baseline.summaries, pair.candidate.summaries))
