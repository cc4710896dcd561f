"""The candidate is smaller, in the form that ships."""

import pytest

from compression_gates.evals.metrics.efficiency import compression_ratio

pytestmark = pytest.mark.efficiency


def test_compression_ratio(pair, gate):
    """The baseline's weights on disk are at least the limit times as large."""
    baseline, candidate = pair.baseline, pair.candidate
    gate.holds(
        compression_ratio(baseline.weight_bytes, candidate.weight_bytes, candidate.footprint)
    )
