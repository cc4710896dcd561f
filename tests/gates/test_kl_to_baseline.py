"""The candidate does not find likely what the baseline rules out."""

import pytest

pytestmark = pytest.mark.quality


def test_kl_to_baseline(pair, gate):
    """KL divergence from the candidate to the baseline stays below the limit on average."""
    gate.holds(gate.read(pair))
