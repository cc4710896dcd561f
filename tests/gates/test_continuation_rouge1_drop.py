"""The candidate's continuations are about what the baseline's are about."""

import pytest

pytestmark = pytest.mark.quality


def test_continuation_rouge1_drop(pair, gate):
    """The mean ROUGE-1 against the baseline's own falls short of 1 by no more than the limit."""
    gate.holds(gate.read(pair))
