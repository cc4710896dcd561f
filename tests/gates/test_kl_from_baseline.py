"""The candidate does not rule out what the baseline finds likely."""

import pytest

pytestmark = pytest.mark.quality


def test_kl_from_baseline(pair, gate):
    """KL divergence from the baseline to the candidate stays below the limit on average."""
    gate.holds(gate.read(pair))
