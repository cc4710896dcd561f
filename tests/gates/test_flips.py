"""The candidate answers as the baseline did, even where accuracy would not tell."""

import pytest

pytestmark = pytest.mark.quality


def test_flips(pair, gate):
    """No more than the limit's share of the predictions changes, right or wrong."""
    gate.holds(gate.read(pair))
