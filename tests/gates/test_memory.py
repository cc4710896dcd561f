"""The candidate needs less memory while it runs, in the form that ships."""

import pytest

pytestmark = pytest.mark.efficiency


def test_memory(pair, gate):
    """The peak memory of the baseline is at least the limit times the candidate's."""
    gate.holds(gate.read(pair))
