import math
from dataclasses import replace

import numpy as np
import pytest

from compression_gates.evals.statistics.estimate import exact
from compression_gates.evals.statistics.largest import largest
from compression_gates.evals.statistics.proportions import clustered_proportion


def shares(generator, rates, items=200):
    return [
        clustered_proportion((generator.random(items) < rate).astype(float), np.arange(items))
        for rate in rates
    ]


def test_the_interval_is_that_of_bonferroni():
    one, two = shares(np.random.default_rng(0), (0.1, 0.12))
    found = largest([one, two])
    assert found.value == max(one.value, two.value)
    assert (found.n, found.clusters) == (400, 400)
    ends = [x.bounds(0.975) for x in (one, two)]
    assert (found.low, found.high) == tuple(map(max, zip(*ends, strict=True)))
    assert largest([one]) is one
    assert (found.samples, one.samples) == (2, 1)
    assert largest([two, exact(0.5)]).low == 0.5


@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.1, 0.02, 0.05), (0.1, 0.1, 0.1)])
def test_the_interval_covers_the_largest_share(rates):
    generator = np.random.default_rng(1)
    covered = sum(x.low <= 0.1 <= x.high for x in (
        largest(shares(generator, rates)) for _ in range(300)))  # fmt: skip
    assert covered >= 0.91 * 300  # three standard errors below 95 %


def test_the_p_value_is_adjusted():
    one, two = shares(np.random.default_rng(2), (0.1, 0.01))
    assert largest([one, two]).p_above(0.05) == pytest.approx(2 * one.p_above(0.05), rel=0.01)


def test_nan_and_unreliable_intervals_are_kept():
    one, two = shares(np.random.default_rng(3), (0.1, 0.01))
    assert math.isnan(largest([one, exact(math.nan)]).value)
    assert math.isnan(largest([exact(math.nan), one]).high)
    assert largest([one, replace(two, unreliable="few")]).unreliable == "few"
    with pytest.raises(ValueError, match="must not be empty"):
        largest([])
