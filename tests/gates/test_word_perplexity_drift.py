"""The candidate reads held-out text about as well as the baseline, word by word."""

import pytest

pytestmark = pytest.mark.quality


def test_word_perplexity_drift(pair, gate):
    """Perplexity per word rises by no more than the limit, as a share of the baseline's."""
    gate.holds(gate.read(pair))
