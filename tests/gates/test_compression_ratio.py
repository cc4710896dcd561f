"""The candidate is smaller, in the form that ships."""

import pytest

pytestmark = pytest.mark.efficiency


def test_compression_ratio(pair, gate):
    """The baseline's weights on disk are at least the limit times as large."""
    gate.holds(gate.read(pair))
