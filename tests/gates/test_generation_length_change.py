"""The candidate generates texts as long as those of the baseline."""

import pytest

pytestmark = pytest.mark.quality


def test_generation_length_change(pair, gate):
    """The mean number of tokens differs by no more than the limit, in either direction."""
    gate.holds(gate.read(pair))
