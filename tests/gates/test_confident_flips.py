"""The candidate says what the baseline says where the baseline is sure."""

import pytest

pytestmark = pytest.mark.quality


def test_confident_flips(pair, gate):
    """Few continuations turn at a token to which the baseline gives nearly all probability."""
    gate.holds(gate.read(pair))
