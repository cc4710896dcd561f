"""The candidate is fast enough, in the form that ships."""

import pytest

pytestmark = pytest.mark.efficiency


def test_speedup(pair, gate):
    """A forward pass of the baseline takes at least the limit times as long."""
    gate.holds(gate.read(pair))
