"""The candidate generates tokens fast enough, in the form that ships."""

import pytest

pytestmark = pytest.mark.efficiency


def test_decode_speedup(pair, gate):
    """A generated token of the baseline takes at least the limit times as long."""
    gate.holds(gate.read(pair))
