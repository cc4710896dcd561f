"""The candidate ends its texts where the baseline does."""

import pytest

pytestmark = pytest.mark.quality


def test_truncated_generations(pair, gate):
    """The share of texts that do not end, unlike the baseline's, is at most the limit."""
    gate.holds(gate.read(pair))
