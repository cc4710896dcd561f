"""Agreement of what a candidate says with what its baseline says, without any right answer.

Both continue the same prompts greedily. Two continuations of high-entropy text part at the first
near-tie, between healthy models too, and have nothing in common from there on. So how far they
agree (``continuation_parting``, ``continuation_changes``, ``continuation_rouge1_drop``) tells an
int8 from an int4, and little more. ``confident_flips`` looks past near-ties: it holds the
candidate's first choices along the baseline's own continuation, and counts only tokens of which the
baseline was sure. A healthy candidate hardly ever changes one.
"""

from functools import partial

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import CAUSAL
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.reading import Reading, Scored, not_judged
from compression_gates.evals.metrics.regressions import Regression, regression
from compression_gates.evals.metrics.units import PERCENT

ContinuationMetric = partial(
    Metric, unit=PERCENT, scored="continuations", needs={CAUSAL: ("continuations",)},
    is_distance=True, ceiling=1.0,
)  # fmt: skip
SURE = 0.99
"""Probability of a token from which on a model is sure of it."""
FEWEST = 10
"""Continuations with a token that the baseline is sure of. With fewer, the baseline hardly knows
the text, so that what it says of it changes for no reason."""


def sure_tokens(baseline: Scored) -> np.ndarray:
    """``(prompts, new)`` tokens that the baseline is sure of."""
    return baseline["chances"] >= SURE


def unsure(baseline: Scored, candidate: Scored) -> Reading | None:
    """What is read of continuations in which the baseline is sure of too little, or says next to
    nothing; None where it says enough, or where the candidate computed NaN, which is a failure all
    the same."""
    if not candidate["finite"].all():
        return None
    said, total = baseline["tokens"], len(baseline.data.items)
    long = (said >= 0).sum(axis=1) > 1
    if total - long.sum() > total / 2:
        return not_judged(
            f"the baseline ends {total - long.sum()} of {total} continuations with their first "
            "token; give prompts that it has something to say to"
        )
    if total > 1 and (said == said[0]).all():
        return not_judged(f"the baseline continues all of {total} prompts with the same tokens")
    counted = int((sure_tokens(baseline).any(axis=1) & long).sum())
    if counted >= FEWEST:
        return None
    return not_judged(
        f"{counted} of {len(baseline.data.items)} continuations have a token to which the baseline "
        f"gives a probability of {SURE:.0%}, and {FEWEST} are needed; give more text, of a kind "
        "that the baseline knows"
    )


def parting(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Tokens before the first difference of two continuations.

    Args:
        one, two: ``(prompts, new)`` tokens, -1 behind the end.

    Returns:
        ``(prompts,)`` integers; the whole length where there is no difference.

    >>> parting(np.array([[5, 6, -1], [5, 6, 7]]), np.array([[5, 6, -1], [5, 9, 7]]))
    array([2, 1])
    """
    differs = one != two
    first = np.where(differs.any(axis=1), differs.argmax(axis=1), one.shape[1])
    return np.minimum(first, longer_lengths(one, two))


def longer_lengths(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Tokens of the longer of two continuations."""
    return np.maximum((one >= 0).sum(axis=1), (two >= 0).sum(axis=1))


def numbers(baseline: Scored, candidate: Scored, values: np.ndarray) -> np.ndarray:
    """Values of prompts, NaN where a model computed no number."""
    return np.where(baseline["finite"] & candidate["finite"], values, np.nan)


def documents_of(scored: Scored) -> np.ndarray:
    return np.asarray(scored.data.documents)


def both(baseline: Scored, candidate: Scored, index: int) -> Regression:
    one, two = (str(side["continuations"][index]) for side in (baseline, candidate))
    return regression(candidate.data, index, baseline=one, candidate=two)
