"""The candidate predicts what the baseline predicts, right or wrong."""

import pytest

pytestmark = pytest.mark.quality


def test_js_divergence(pair, gate):
    """Jensen-Shannon divergence over the whole vocabulary, or over the classes, stays below the
    limit on average."""
    gate.holds(gate.read(pair))
