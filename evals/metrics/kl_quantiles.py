"""Quantiles of the Kullback-Leibler divergence of single predictions, and the largest one.

A mean hides a few tokens, such as those of one language or of one layout, on which the candidate
predicts something else. The quantiles are those that the perplexity tool of llama.cpp prints with
``--kl-divergence``: 50 %, 90 %, 99 % and 99.9 % of ``KL(baseline || candidate)``, and the maximum.
"""

from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.metrics.prediction_divergence import (
    KL_FORWARD,
    Divergence,
    describe_predictions,
    describe_windows,
    divergence_values,
    predicts_tokens,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.metrics.result import MetricResult, Scored, chance_level_tokens
from compression_gates.evals.statistics.quantiles import clustered_quantile, sample_maximum

QUANTILES = {"kl_median": 0.5, "kl_p90": 0.9, "kl_p99": 0.99, "kl_p999": 0.999}
"""The share of the predictions whose divergence is at most the quantile, by metric."""


def group_quantiles(values: ArrayLike, groups: ArrayLike, q: float) -> np.ndarray:
    """Return the smallest value of each group that at least a share ``q`` of its values does not
    exceed.

    Args:
        values: ``(n,)``.
        groups: ``(n,)``, the group ``0 .. max`` of each value; no group is empty.
        q: in (0, 1]; 1 gives the largest value.

    >>> group_quantiles([1.0, 3.0, 2.0, 5.0], [0, 0, 0, 1], 0.5).tolist()
    [2.0, 5.0]
    """
    values, groups = np.asarray(values), np.asarray(groups)
    sizes = np.bincount(groups)
    ranks = np.clip(np.ceil(q * sizes - 1e-9).astype(int), 1, sizes)
    # NaN is sorted behind all numbers, so that a quantile can miss it.
    ordered = values[np.lexsort((values, groups))]
    quantiles = ordered[np.cumsum(sizes) - sizes + ranks - 1]
    has_nan = np.bincount(groups, np.isnan(values)) > 0
    return np.where(has_nan, np.nan, quantiles)


def kl_quantile(baseline: Scored, candidate: Scored, q: float) -> MetricResult:
    """Return a quantile of ``KL(baseline || candidate)`` over predicted tokens or classes, in nats.

    The largest divergence of the sample (``q = 1``) is a lower bound of the largest one on all
    texts, and no sample has an upper bound. It can therefore be proven to break a limit, but never
    to keep it.

    Args:
        baseline, candidate: both sides.
        q: share of the predictions whose divergence is at most the quantile, in (0, 1].

    Raises:
        EvalError: the two sides are not comparable.
    """
    values, documents = divergence_values(baseline, candidate, KL_FORWARD)
    unit = "nats"
    if predicts_tokens(candidate):
        at_chance = chance_level_tokens(baseline, candidate)
        if at_chance is not None:
            return at_chance
        losses = group_quantiles(values, candidate["window"], q)
        worst = worst_items(losses, describe_windows(candidate, f"{unit} at a token"))
        is_series = candidate.is_one_document
    else:
        worst = worst_items(values, describe_predictions(candidate, unit))
        is_series = False
    if q == 1:
        estimate = sample_maximum(values, documents)
    else:
        estimate = clustered_quantile(values, documents, q, is_series=is_series)
    quantiles = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
    return MetricResult(
        estimate=estimate,
        baseline=0.0,
        candidate=estimate.value,
        worst=worst,
        facts={
            "kl_mean": float(values.mean(dtype=np.float64)),
            **dict(zip(QUANTILES, map(float, quantiles), strict=True)),
            "kl_max": float(values.max()),
        },
    )


for _name, _q in QUANTILES.items():
    _share = f"{_q * 100:g}%"
    _kind = "median" if _q == 0.5 else f"{_share} quantile"
    register(Divergence(
        name=_name, title=f"KL {_kind.removesuffix(' quantile')}", order=21 + _q / 10,
        label=f"{_kind} of the KL divergence",
        promise=f"KL(baseline || candidate) of {_share} of the predictions is at most {{limit}}",
        function=partial(kl_quantile, q=_q),
    ))  # fmt: skip
register(Divergence(
    name="kl_max", title="KL max", label="largest KL divergence", order=21.2,
    promise="KL(baseline || candidate) of every prediction is at most {limit}",
    function=partial(kl_quantile, q=1.0),
))  # fmt: skip
