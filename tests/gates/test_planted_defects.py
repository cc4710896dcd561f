"""The suite itself is worth its time: it catches every known way to break a checkpoint.

pytest tests/gates --profile planted-defects
"""

import pytest

pytestmark = pytest.mark.quality


def test_planted_defects(planted):
    """Some gate fails a checkpoint that was healthy until one mistake was made in it."""
    planted.is_caught()
