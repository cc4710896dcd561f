"""The candidate is fast enough, in the form that ships."""

import pytest

from evals.metrics.efficiency import speedup

pytestmark = pytest.mark.efficiency


def test_speedup(pair, gate):
    """A forward pass of the baseline takes at least the limit times as long."""
    gate.holds(speedup(pair.seconds, pair.candidate.footprint))
