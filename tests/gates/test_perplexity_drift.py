"""The candidate reads held-out text about as well as the baseline."""

import pytest

pytestmark = pytest.mark.quality


def test_perplexity_drift(pair, gate):
    """Token perplexity rises by no more than the limit, as a share of the baseline's."""
    gate.holds(gate.read(pair))
