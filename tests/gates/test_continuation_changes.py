"""The candidate continues texts as the baseline does, word for word."""

import pytest

pytestmark = pytest.mark.quality


def test_continuation_changes(pair, gate):
    """No more continuations differ from the baseline's than the limit."""
    gate.holds(gate.read(pair))
