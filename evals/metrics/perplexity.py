"""Perplexity: ``exp`` of the mean negative log-likelihood of tokens, in log space.

Per token it depends on the tokenizer; per word and per byte it can be compared over tokenizers::

    token: exp(sum NLL / tokens)    word: exp(sum NLL / words)    byte: exp(sum NLL / bytes)
"""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, SEQ2SEQ
from compression_gates.evals.data.items import DROP, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.divergence import group_means, windows_of
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.reading import (
    Reading,
    Scored,
    check_paired,
    check_same_tokens,
    guessed_tokens,
    not_judged,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.metrics.units import PLAIN, RISE
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.item_values import ItemValues
from compression_gates.evals.statistics.means import series_mean, studentized_mean

TOKEN, WORD, BYTE = "token", "word", "byte"
"""What the loss is shared out among."""
_PLACES = {WORD: 0, BYTE: 1}
"""Of the counts of words and of bytes that a scorer leaves."""


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
    return relative_rise(baseline, candidate, TOKEN)


def word_perplexity_drift(baseline: Scored, candidate: Scored) -> Reading:
    """Relative rise of perplexity per word: ``exp(sum(NLL' - NLL) / words) - 1``."""
    return relative_rise(baseline, candidate, WORD)


def byte_perplexity_drift(baseline: Scored, candidate: Scored) -> Reading:
    """Relative rise of perplexity per byte: ``exp(sum(NLL' - NLL) / bytes) - 1``."""
    return relative_rise(baseline, candidate, BYTE)


def relative_rise(baseline: Scored, candidate: Scored, per: str) -> Reading:
    """Relative rise of perplexity: ``exp(sum(NLL' - NLL) / units) - 1``, paired token by token.

    The interval takes the number of tokens ``per`` word or byte for given.
    """
    check_paired(baseline, candidate)
    check_same_tokens(baseline, candidate)
    if not np.isfinite(baseline["nll"]).all():
        raise EvalError("the baseline calls a token impossible, or its prediction is no number")
    guessed = guessed_tokens(baseline, candidate)
    if guessed is not None:
        return guessed
    tokens = len(baseline["nll"])
    units = tokens if per == TOKEN else _units(baseline).get(per)
    if units is None:
        return not_judged(f"the {per}s that are predicted were not counted")
    rise = candidate["nll"].astype(np.float64) - baseline["nll"]
    losses = group_means(rise, baseline["window"])
    shared = rise * (tokens / units)
    return Reading(
        estimate=drift_of(shared, baseline["cluster"], baseline.is_one_document),
        baseline=perplexity(baseline["nll"], units),
        candidate=perplexity(candidate["nll"], units),
        worst=worst_items(losses, windows_of(candidate, "nats per token")),
        facts=_facts(candidate),
        protocol=_protocol(candidate, per),
        items=ItemValues.of_tokens(shared, baseline),
    )


def rise_problem(limit: float) -> str:
    """Why a limit on a relative rise cannot be meant, or nothing."""
    if limit < 1:
        return ""
    return f"{limit:g} lets perplexity rise by {limit:.0%}; for {limit:g} % give {limit / 100:g}"


def _units(scored: Scored) -> Mapping[str, int]:
    """Words and bytes that are predicted; empty where they were not counted, or where some that
    were counted are not predicted."""
    if "units" not in scored.measurement.arrays or scored.data.overrides.tail == DROP:
        return {}
    return {name: int(scored["units"][place]) for name, place in _PLACES.items()}


def _facts(scored: Scored) -> dict[str, float]:
    """Perplexity per word and per byte, where they were counted, and that of guessing."""
    if "units" not in scored.measurement.arrays:
        return {}
    levels = {
        f"{per}_perplexity": perplexity(scored["nll"], units)
        for per, units in _units(scored).items()
    }
    return {"guessing": float(scored["vocabulary"])} | levels


def _protocol(scored: Scored, per: str) -> str:
    data = scored.data
    if scored.protocol:
        return scored.protocol
    if isinstance(data.items[0], Text):
        count = len(data.items)
        what = f"{count} documents, each scored by itself"
        if count == 1:
            what = "one document (rows of a table are documents of their own)"
    else:
        what = f"the responses to {len(data.items)} prompts"
    return f"per {per} on {data.name}, {what}, {_windows(scored)}"


def _windows(scored: Scored) -> str:
    """How texts are cut; where none is as long as a window, how long they are."""
    context, stride = scored["windowing"]
    longest = scored.measurement.arrays.get("longest")
    if longest is not None and longest < context:
        return f"longest document {int(longest)} tokens"
    is_cut = scored.data.overrides.tail == DROP
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


_drift = partial(
    Metric, unit=RISE, level_unit=PLAIN, scored="text", protocol_title="perplexity",
    needs={CAUSAL: ("text",), SEQ2SEQ: ("text",)}, counted="documents", ceiling=1.0,
    from_items=math.expm1, check_limit=rise_problem,
)  # fmt: skip
register(_drift(
    name="perplexity_drift", title="perplexity", promise="perplexity rises by at most {limit}",
    function=perplexity_drift, order=10,
    lm_eval=("word_perplexity", "byte_perplexity", "perplexity"),
))  # fmt: skip
register(_drift(
    name="word_perplexity_drift", title="word perplexity", order=11,
    promise="word perplexity rises by at most {limit}", function=word_perplexity_drift,
))  # fmt: skip
register(_drift(
    name="byte_perplexity_drift", title="byte perplexity", order=12,
    promise="byte perplexity rises by at most {limit}", function=byte_perplexity_drift,
))  # fmt: skip
