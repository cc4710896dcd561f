"""The candidate is worth it: what it keeps, saves and gains, weighed together."""

import pytest

from compression_gates.evals.metrics.efficiency import weighted_score

pytestmark = pytest.mark.efficiency


def test_weighted_score(pair, gate):
    """w_A * task score + w_CR * compression ratio + w_IS * speedup reaches the limit."""
    speed = pair.speed if gate.weights["speed"] else None
    gate.holds(weighted_score(gate.weights, pair.task_drop, pair.size, speed))
