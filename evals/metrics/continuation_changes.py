"""Continuations that differ in any token."""

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
from compression_gates.evals.statistics.item_values import PROPORTION, ItemValues
from compression_gates.evals.statistics.shares import clustered_proportion


def continuation_changes(baseline: Scored, candidate: Scored) -> Reading:
    """Share of prompts that the two continue differently, in any token."""
    check_paired(baseline, candidate)
    skipped = unsure(baseline, candidate)
    if skipped is not None:
        return skipped
    parted = parting(baseline["tokens"], candidate["tokens"])
    changed = (parted < longer_lengths(baseline["tokens"], candidate["tokens"])).astype(float)
    changed = numbers(baseline, candidate, changed)
    return Reading(
        estimate=clustered_proportion(changed, documents_of(baseline)),
        baseline=0.0,
        candidate=float(changed.mean()),
        worst=worst_items(_losses(changed, parted), lambda i: both(baseline, candidate, i)),
        facts={"tokens_until_parting": float(parted.mean())},
        items=ItemValues.of(PROPORTION, changed, documents_of(baseline), baseline),
    )


def _losses(changed: np.ndarray, parted: np.ndarray) -> np.ndarray:
    """What changed, the earlier the worse."""
    return changed * (1 + 1 / (1 + parted))


register(ContinuationMetric(
    name="continuation_changes", title="continuations", label="changed continuations",
    promise="at most {limit} of the continuations change", function=continuation_changes, order=51,
))  # fmt: skip
