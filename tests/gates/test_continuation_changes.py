"""The candidate continues texts as the baseline does, word for word."""

import pytest

from compression_gates.evals.metrics.continuation import continuation_changes

pytestmark = pytest.mark.quality


def test_continuation_changes(pair, gate):
    """No more continuations differ from the baseline's than the limit."""
    gate.holds(continuation_changes(pair.baseline.continuations, pair.candidate.continuations))
