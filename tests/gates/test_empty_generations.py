"""The candidate generates something where the baseline does."""

import pytest

pytestmark = pytest.mark.quality


def test_empty_generations(pair, gate):
    """The share of texts that are empty, unlike the baseline's, is at most the limit."""
    gate.holds(gate.read(pair))
