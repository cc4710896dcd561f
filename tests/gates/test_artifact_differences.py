"""The candidate can be used as the baseline is, also where no score would tell."""

import pytest

pytestmark = pytest.mark.quality


def test_artifact_differences(pair, gate):
    """Nothing in the checkpoint differs from the baseline's that breaks plain use."""
    gate.holds(gate.read(pair))
