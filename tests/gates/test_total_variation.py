"""The candidate moves little probability from one prediction to another."""

import pytest

pytestmark = pytest.mark.quality


def test_total_variation(pair, gate):
    """The mean total variation distance of the predictions is at most the limit."""
    gate.holds(gate.read(pair))
