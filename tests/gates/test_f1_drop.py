"""The candidate's answers still share their words with the right ones."""

import pytest

from compression_gates.evals.metrics.answers import f1_drop

pytestmark = pytest.mark.quality


def test_f1_drop(pair, gate):
    """The mean F1 of answers falls by no more than the limit."""
    gate.holds(f1_drop(pair.baseline.answers, pair.candidate.answers))
