"""Agreement of a candidate's continuations with its baseline's, without labelled data.

Both models continue the same prompts greedily. Two continuations of high-entropy text diverge at
the first token where two choices are almost equally likely, even between healthy models, and have
nothing in common after it. ``continuation_parting``, ``continuation_changes`` and
``continuation_rouge1_drop`` therefore separate int8 from int4, but not much more.
``confident_flips`` ignores such tokens: it compares the candidate's most likely tokens along the
baseline's own continuation, and counts only tokens of which the baseline is confident. A healthy
candidate hardly ever changes one.
"""

from collections.abc import Callable
from functools import partial, wraps

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import CAUSAL
from compression_gates.evals.metrics.generations import describe_texts, finite_values
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.metrics.result import MetricResult, Scored, check_paired, not_judged
from compression_gates.evals.metrics.units import PERCENT
from compression_gates.evals.statistics.item_values import INTERVALS, ItemValues

ContinuationMetric = partial(
    Metric, unit=PERCENT, scored="continuations", needs={CAUSAL: ("continuations",)},
    is_distance=True, ceiling=1.0,
)  # fmt: skip
SURE = 0.99
"""Probability of a token from which on a model is confident of it."""
FEWEST = 10
"""Smallest number of continuations with a token of which the baseline is confident. With fewer, the
text is unfamiliar to the baseline, and its continuations change at random."""

PairFunction = Callable[[Scored, Scored], MetricResult]


def judged_if_confident(function: PairFunction) -> PairFunction:
    """Decorate a metric of continuations, so that it checks that both sides are paired, and is not
    judged if the baseline is too uncertain; see :func:`uncertain_baseline`."""

    @wraps(function)
    def judged(baseline: Scored, candidate: Scored) -> MetricResult:
        check_paired(baseline, candidate)
        return uncertain_baseline(baseline, candidate) or function(baseline, candidate)

    return judged


def uncertain_baseline(baseline: Scored, candidate: Scored) -> MetricResult | None:
    """Return a result that is not judged if the baseline generates next to nothing, generates the
    same for all prompts, or is confident of too few tokens.

    Returns:
        None if none of these is the case, or if the candidate's logits are not finite, which fails
        in any case.
    """
    if not candidate["finite"].all():
        return None
    tokens, total = baseline["tokens"], len(baseline.data.items)
    is_long = (tokens >= 0).sum(axis=1) > 1
    short = total - is_long.sum()
    if short > total / 2:
        return not_judged(
            f"the baseline ends {short} of {total} continuations after their first token; give "
            "prompts that it continues for longer"
        )
    if total > 1 and (tokens == tokens[0]).all():
        return not_judged(f"the baseline continues all of {total} prompts with the same tokens")
    confident = int((sure_tokens(baseline).any(axis=1) & is_long).sum())
    if confident >= FEWEST:
        return None
    return not_judged(
        f"{confident} of {total} continuations have a token to which the baseline gives a "
        f"probability of {SURE:.0%}, and {FEWEST} are needed; give more text, of a kind that the "
        "baseline was trained on"
    )


def sure_tokens(baseline: Scored) -> np.ndarray:
    """Return which tokens the baseline is confident of, ``(prompts, new)``."""
    return baseline["chances"] >= SURE


def common_prefix_lengths(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the number of tokens before the first difference of two continuations.

    Args:
        first, second: ``(prompts, new)`` tokens, -1 after the end.

    Returns:
        ``(prompts,)`` integers; the whole length if there is no difference.

    >>> common_prefix_lengths(np.array([[5, 6, -1], [5, 6, 7]]), np.array([[5, 6, -1], [5, 9, 7]]))
    array([2, 1])
    """
    differs = first != second
    prefix = np.where(differs.any(axis=1), differs.argmax(axis=1), first.shape[1])
    return np.minimum(prefix, longer_lengths(first, second))


def longer_lengths(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the number of tokens of the longer of two continuations, ``(prompts,)``."""
    return np.maximum((first >= 0).sum(axis=1), (second >= 0).sum(axis=1))


def distance_result(
    baseline: Scored,
    candidate: Scored,
    kind: str,
    distances: np.ndarray,
    severity: np.ndarray | float = 1.0,
    facts: dict[str, float] | None = None,
) -> MetricResult:
    """Return the result of a mean distance between continuations.

    Args:
        baseline, candidate: both sides.
        kind: of the distances, as in :class:`evals.statistics.item_values.ItemValues`.
        distances: ``(prompts,)``, 0 for identical continuations.
        severity: ``(prompts,)`` factors by which the worst items are ranked.
        facts: further numbers for the report.
    """
    distances = finite_values(baseline, candidate, distances)
    documents = np.asarray(baseline.data.documents)
    return MetricResult(
        estimate=INTERVALS[kind](distances, documents),
        baseline=0.0,
        candidate=float(distances.mean()),
        worst=worst_items(distances * severity, describe_texts(baseline, candidate)),
        facts=facts or {},
        items=ItemValues.of(kind, distances, documents, baseline),
    )
