"""The candidate's answers still share their words with the right ones."""

import pytest

pytestmark = pytest.mark.quality


def test_f1_drop(pair, gate):
    """The mean F1 of answers falls by no more than the limit."""
    gate.holds(gate.read(pair))
