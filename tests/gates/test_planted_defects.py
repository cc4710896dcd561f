"""The suite itself is worth its time: it catches every known way to break a checkpoint.

pytest tests/gates --profile planted-defects
"""

import pytest

pytestmark = pytest.mark.quality


def test_planted_defects(planted_defect):
    """Some gate fails a checkpoint that was healthy until one mistake was made in it."""
    planted_defect.is_caught()
