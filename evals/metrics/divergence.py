"""Divergence between two next-token (or class) distributions, over the whole vocabulary, in nats.

::

    KL(p || q) = sum_v p_v (log p_v - log q_v)
    JS(p, q)   = (KL(p || m) + KL(q || m)) / 2,    m = (p + q) / 2,    0 <= JS <= ln 2

The sum runs over the vocabulary, one value per predicted token. Taking the softmax over sequence
positions, as one public implementation does, measures something else.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from evals.data import input_text
from evals.errors import EvalError
from evals.estimate import Estimate
from evals.items import MEAN, ItemValues
from evals.reading import Reading, Scored, check_paired, check_same_tokens, snippet, worst_items
from evals.statistics import studentized_mean

LARGEST = math.log(2)
"""No Jensen-Shannon divergence is larger, in nats."""


def divergences(log_p, log_q):
    """JS, KL(p || q) and KL(q || p) of rows of log-probabilities, in float64.

    Exactly zero for equal rows. Works in log space throughout; an entry that is impossible under
    both counts nothing, one that is impossible under one of them makes that KL infinite.

    Args:
        log_p, log_q: tensors ``(..., vocabulary)`` of natural log-probabilities.

    Returns:
        Three tensors ``(...)`` in nats.
    """
    import torch

    log_p, log_q = log_p.double(), log_q.double()
    p, q = log_p.exp(), log_q.exp()
    gap = log_p - log_q
    gap = torch.where((p == 0) & (q == 0), torch.zeros_like(gap), gap)
    zero = torch.zeros_like(gap)
    kl_pq = torch.where(p == 0, zero, p * gap).sum(-1)
    kl_qp = torch.where(q == 0, zero, -q * gap).sum(-1)
    # log(p / m) = -log((1 + q/p) / 2) = -log1p(expm1(log q - log p) / 2), and is 0 for p = q.
    above = torch.where(p == 0, zero, -p * torch.log1p(torch.expm1(-gap.clamp(min=-700)) / 2))
    below = torch.where(q == 0, zero, -q * torch.log1p(torch.expm1(gap.clamp(max=700)) / 2))
    js = (above + below).sum(-1) / 2
    return js.clamp(min=0.0), kl_pq.clamp(min=0.0), kl_qp.clamp(min=0.0)


def group_means(values: ArrayLike, groups: ArrayLike) -> np.ndarray:
    """Mean of ``values`` ``(n,)`` over each group ``0 .. max`` of ``groups`` ``(n,)``."""
    return np.bincount(groups, values) / np.bincount(groups)


def js_divergence(baseline: Scored, candidate: Scored) -> Reading:
    """Mean Jensen-Shannon divergence of the candidate's predictions from the baseline's.

    Of next tokens where tokens are predicted, of classes for classifiers, of the places where an
    answer starts and ends for extractive models.
    """
    check_paired(baseline, candidate)
    if "js" in candidate.measurement.arrays:
        check_same_tokens(baseline, candidate)
        return _next_tokens(baseline, candidate)
    return _classes(baseline, candidate)


def check_same_classes(baseline: Scored, candidate: Scored) -> None:
    """Raises an EvalError if one side knows more classes than the other."""
    one, two = (side["log_probabilities"].shape[1] for side in (baseline, candidate))
    if one != two:
        raise EvalError(f"the label sets differ: {one} classes and {two}")


def _mean(js: np.ndarray, documents: ArrayLike) -> Estimate:
    """Its mean over documents, in an interval of what it can be."""
    return studentized_mean(js, documents).map(
        lambda value: value if math.isnan(value) else min(max(value, 0.0), LARGEST)
    )


def _next_tokens(baseline: Scored, candidate: Scored) -> Reading:
    js = candidate["js"]
    losses = group_means(js, candidate["window"])
    return Reading(
        estimate=_mean(js, candidate["cluster"]),
        baseline=0.0,
        candidate=float(js.mean()),
        worst=worst_items(
            losses,
            lambda i: f"{losses[i]:.4f} nats/token in {snippet(str(candidate['window_text'][i]))}",
        ),
        facts={
            "kl_from_baseline": float(candidate["kl_forward"].mean()),
            "kl_to_baseline": float(candidate["kl_backward"].mean()),
            "top1_agreement": float(candidate["agree"].mean()),
        },
        items=ItemValues.of(MEAN, js, candidate["cluster"], baseline),
    )


def _classes(baseline: Scored, candidate: Scored) -> Reading:
    import torch

    check_same_classes(baseline, candidate)
    one, two = (torch.from_numpy(side["log_probabilities"]) for side in (baseline, candidate))
    js, forward, backward = (values.numpy() for values in divergences(one, two))
    items = candidate.data.items
    if "item" in candidate.measurement.arrays:
        which = candidate["item"]
        documents = np.asarray(baseline.data.documents)[which]
    else:
        which, documents = range(len(items)), baseline.data.documents
    return Reading(
        estimate=_mean(js, documents),
        baseline=0.0,
        candidate=float(js.mean()),
        worst=worst_items(
            js, lambda i: f"{js[i]:.4f} nats on {snippet(input_text(items[which[i]]))}"
        ),
        facts={
            "kl_from_baseline": float(forward.mean()),
            "kl_to_baseline": float(backward.mean()),
        },
        items=ItemValues.of(MEAN, js, documents, baseline),
    )
