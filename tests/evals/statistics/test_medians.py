import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evals.statistics import median_interval


def test_an_empty_sample_raises():
    with pytest.raises(ValueError, match="empty"):
        median_interval([])


def test_median_interval_is_exact():
    # For n = 10 the 2nd and 9th values cover the median with 1 - 2 * 11 / 1024 = 97.9 %.
    found = median_interval(range(1, 11))
    assert (found.value, found.low, found.high) == (5.5, 2.0, 9.0)
    assert median_interval([1.0, 2.0, 3.0]).high == math.inf


@given(st.integers(1, 60))
def test_median_interval_reaches_its_confidence_and_no_shorter_one_does(n):
    found = median_interval(np.arange(1, n + 1))
    if math.isinf(found.low):
        assert 1 - 2 * stats.binom.cdf(0, n, 0.5) < 0.95
        return
    rank = int(found.low)
    assert found.high == n + 1 - rank
    assert 1 - 2 * stats.binom.cdf(rank - 1, n, 0.5) >= 0.95
    assert 1 - 2 * stats.binom.cdf(rank, n, 0.5) < 0.95
