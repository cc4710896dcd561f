"""The candidate's most likely token is mostly the baseline's."""

import pytest

pytestmark = pytest.mark.quality


def test_top1_agreement_drop(pair, gate):
    """The share of tokens with the same most likely token is close enough to 1."""
    gate.holds(gate.read(pair))
