"""How early continuations part."""

import numpy as np

from compression_gates.evals.metrics.continuation import (
    ContinuationMetric,
    both,
    documents_of,
    longer_lengths,
    numbers,
    parting,
    unsure,
)
from compression_gates.evals.metrics.reading import Reading, Scored, check_paired
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.statistics.item_values import SHARE, ItemValues
from compression_gates.evals.statistics.shares import clustered_share


def continuation_parting(baseline: Scored, candidate: Scored) -> Reading:
    """Share of the baseline's continuation that stands behind the first difference, on average.

    ``1 - (tokens before the first difference) / (tokens)``: 0 where two are identical, 1 where
    the first token differs. Of a candidate that goes on where the baseline ends, the longer
    continuation is what is divided by.
    """
    check_paired(baseline, candidate)
    skipped = unsure(baseline, candidate)
    if skipped is not None:
        return skipped
    parted = parting(baseline["tokens"], candidate["tokens"])
    lengths = longer_lengths(baseline["tokens"], candidate["tokens"])
    lost = numbers(baseline, candidate, 1 - parted / np.maximum(lengths, 1))
    return Reading(
        estimate=clustered_share(lost, documents_of(baseline)),
        baseline=0.0,
        candidate=float(lost.mean()),
        worst=worst_items(lost, lambda i: both(baseline, candidate, i)),
        facts={
            "tokens_until_parting": float(parted.mean()),
            "tokens_of_baseline": float((baseline["tokens"] >= 0).sum(axis=1).mean()),
            "identical": float((parted == lengths).mean()),
        },
        items=ItemValues.of(SHARE, lost, documents_of(baseline), baseline),
    )


register(ContinuationMetric(
    name="continuation_parting", title="parting",
    promise="at most {limit} of a continuation follows the first difference",
    function=continuation_parting, order=52,
))  # fmt: skip
