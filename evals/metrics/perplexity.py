"""Perplexity: ``exp`` of the mean negative log-likelihood of tokens, in log space.

Per token it depends on the tokenizer; per word and per byte it can be compared over tokenizers::

    token: exp(sum NLL / tokens)    word: exp(sum NLL / words)    byte: exp(sum NLL / bytes)
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.data.items import DROP, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.divergence import group_means, windows_of
from compression_gates.evals.metrics.reading import (
    Reading,
    Scored,
    check_paired,
    check_same_tokens,
    guessed_tokens,
)
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.item_values import ItemValues
from compression_gates.evals.statistics.means import series_mean, studentized_mean


def perplexity(nll: ArrayLike, units: int | None = None) -> float:
    """``exp(sum(nll) / units)``; ``units`` are the tokens themselves unless given.

    Args:
        nll: ``(tokens,)`` negative log-likelihoods in nats.
        units: number of words or bytes of the same text.

    >>> round(perplexity([0.6931471805599453, 0.6931471805599453]), 12)
    2.0
    """
    nll = np.asarray(nll, dtype=np.float64)
    try:
        return math.exp(float(nll.sum()) / (nll.size if units is None else units))
    except OverflowError:
        return math.inf


def perplexity_drift(baseline: Scored, candidate: Scored) -> Reading:
    """Relative rise of token perplexity: ``exp(mean(NLL' - NLL)) - 1``, paired token by token."""
    check_paired(baseline, candidate)
    check_same_tokens(baseline, candidate)
    if not np.isfinite(baseline["nll"]).all():
        raise EvalError("the baseline calls a token impossible, or its prediction is no number")
    guessed = guessed_tokens(baseline, candidate)
    if guessed is not None:
        return guessed
    rise = candidate["nll"].astype(np.float64) - baseline["nll"]
    losses = group_means(rise, baseline["window"])
    return Reading(
        estimate=drift_of(rise, baseline["cluster"], baseline.is_one_document),
        baseline=perplexity(baseline["nll"]),
        candidate=perplexity(candidate["nll"]),
        worst=worst_items(losses, windows_of(candidate)),
        facts=_facts(candidate),
        protocol=_protocol(candidate),
        items=ItemValues.of_tokens(rise, baseline),
    )


def _facts(scored: Scored) -> dict[str, float]:
    """Perplexity per word and per byte, where they were counted, and that of guessing."""
    if "units" not in scored.measurement.arrays:
        return {}
    words, size = scored["units"]
    guessing = {"guessing": float(scored["vocabulary"])}
    if scored.data.how.get("tail") == DROP:  # words were counted that are not predicted
        return guessing
    return guessing | {
        "word_perplexity": perplexity(scored["nll"], int(words)),
        "byte_perplexity": perplexity(scored["nll"], int(size)),
    }


def _protocol(scored: Scored) -> str:
    data = scored.data
    if "told" in data.how:
        return str(data.how["told"])
    if isinstance(data.items[0], Text):
        count = len(data.items)
        what = f"{count} documents, each scored by itself"
        if count == 1:
            what = "one document (rows of a table are documents of their own)"
    else:
        what = f"the responses to {len(data.items)} prompts"
    return f"per token on {data.name}, {what}, {_windows(scored)}"


def _windows(scored: Scored) -> str:
    """How texts are cut; where none is as long as a window, how long they are."""
    context, stride = scored["windowing"]
    longest = scored.measurement.arrays.get("longest")
    if longest is not None and longest < context:
        return f"longest document {int(longest)} tokens"
    is_cut = scored.data.how.get("tail") == DROP
    tail = ", the last one left out where it is shorter" if is_cut else ""
    return f"in windows of {context} tokens, {stride} apart{tail}"


def drift_of(rise: ArrayLike, documents: ArrayLike, one_document: bool = False) -> Estimate:
    """Relative rise of perplexity, of rises ``(tokens,)`` of the negative log-likelihood.

    Args:
        rise: ``(tokens,)``.
        documents: ``(tokens,)``, the document of each; of ``one_document`` the window.
        one_document: the windows are consecutive, and resemble their neighbours.
    """
    return (series_mean if one_document else studentized_mean)(rise, documents).map(_expm1)


def _expm1(value: float) -> float:
    try:
        return math.expm1(value)
    except OverflowError:
        return math.inf
