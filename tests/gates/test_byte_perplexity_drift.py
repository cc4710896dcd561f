"""The candidate reads held-out text about as well as the baseline, byte by byte."""

import pytest

pytestmark = pytest.mark.quality


def test_byte_perplexity_drift(pair, gate):
    """Perplexity per byte rises by no more than the limit, as a share of the baseline's."""
    gate.holds(gate.read(pair))
