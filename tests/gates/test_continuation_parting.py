"""The candidate follows the baseline's continuations for a while."""

import pytest

pytestmark = pytest.mark.quality


def test_continuation_parting(pair, gate):
    """The share of a continuation behind the first difference stays below the limit on average."""
    gate.holds(gate.read(pair))
