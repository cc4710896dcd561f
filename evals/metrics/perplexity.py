"""Perplexity: the exponential of the mean negative log-likelihood.

Perplexity per token depends on the tokenizer; per word and per byte it can be compared between
tokenizers::

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
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.prediction_divergence import describe_windows, group_means
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.metrics.result import (
    MetricResult,
    Scored,
    chance_level_tokens,
    check_paired,
    check_same_tokens,
    not_judged,
)
from compression_gates.evals.metrics.units import PLAIN, RISE
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.item_values import ItemValues
from compression_gates.evals.statistics.means import series_mean, studentized_mean

TOKEN, WORD, BYTE = "token", "word", "byte"
"""Units per which the loss is averaged."""
_PLACES = {WORD: 0, BYTE: 1}
"""Index of each unit in a measurement's array ``units``."""


def perplexity(nll: ArrayLike, units: int | None = None) -> float:
    """Return ``exp(sum(nll) / units)``.

    Args:
        nll: ``(tokens,)`` negative log-likelihoods in nats.
        units: number of words or bytes of the same text; default the number of tokens.

    >>> round(perplexity([0.6931471805599453, 0.6931471805599453]), 12)
    2.0
    """
    nll = np.asarray(nll, dtype=np.float64)
    try:
        return math.exp(float(nll.sum()) / (nll.size if units is None else units))
    except OverflowError:
        return math.inf


def perplexity_drift(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the relative rise of token perplexity, ``exp(mean(NLL' - NLL)) - 1``."""
    return relative_rise(baseline, candidate, TOKEN)


def word_perplexity_drift(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the relative rise of perplexity per word, ``exp(sum(NLL' - NLL) / words) - 1``."""
    return relative_rise(baseline, candidate, WORD)


def byte_perplexity_drift(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the relative rise of perplexity per byte, ``exp(sum(NLL' - NLL) / bytes) - 1``."""
    return relative_rise(baseline, candidate, BYTE)


def relative_rise(baseline: Scored, candidate: Scored, per: str) -> MetricResult:
    """Return the relative rise ``exp(sum(NLL' - NLL) / units) - 1`` of perplexity, paired by token.

    The interval treats the number of tokens ``per`` word or byte as known.

    Raises:
        EvalError: the two sides cannot be paired, or a loss of the baseline is not finite.
    """
    check_paired(baseline, candidate)
    check_same_tokens(baseline, candidate)
    if not np.isfinite(baseline["nll"]).all():
        raise EvalError(
            "the loss of the baseline is not finite: its logits are not, or the probability of a "
            "token is 0"
        )
    at_chance = chance_level_tokens(baseline, candidate)
    if at_chance is not None:
        return at_chance
    tokens = len(baseline["nll"])
    units = tokens if per == TOKEN else _units(baseline).get(per)
    if units is None:
        return not_judged(f"the number of predicted {per}s is unknown")
    rise = candidate["nll"].astype(np.float64) - baseline["nll"]
    losses = group_means(rise, baseline["window"])
    scaled = rise * (tokens / units)
    return MetricResult(
        estimate=drift_of(scaled, baseline["cluster"], baseline.is_one_document),
        baseline=perplexity(baseline["nll"], units),
        candidate=perplexity(candidate["nll"], units),
        worst=worst_items(losses, describe_windows(candidate, "nats per token")),
        facts=_facts(candidate),
        protocol=_protocol(candidate, per),
        items=ItemValues.of_tokens(scaled, baseline),
    )


def rise_problem(limit: float) -> str:
    """Return why a limit on a relative rise is probably a mistake, or an empty string."""
    if limit < 1:
        return ""
    return (
        f"{limit:g} allows perplexity to rise by {limit:.0%}; for {limit:g} % give {limit / 100:g}"
    )


def _units(scored: Scored) -> Mapping[str, int]:
    """Return the numbers of predicted words and bytes.

    They are unknown, and the result is empty, if they were not counted, or if the last window was
    left out.
    """
    if "units" not in scored.measurement.arrays or scored.data.overrides.tail == DROP:
        return {}
    return {name: int(scored["units"][place]) for name, place in _PLACES.items()}


def _facts(scored: Scored) -> dict[str, float]:
    """Return the known perplexities per word and per byte, and that of a uniform prediction."""
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
    count = len(data.items)
    if not isinstance(data.items[0], Text):
        items = f"the responses to {count} prompts"
    elif count > 1:
        items = f"{count} documents, each scored by itself"
    else:
        items = "one document (rows of a table are documents of their own)"
    return f"per {per} on {data.name}, {items}, {_windows(scored)}"


def _windows(scored: Scored) -> str:
    """Describe the windows, or the length of the texts if none is as long as a window."""
    context, stride = scored["windowing"]
    longest = scored.measurement.arrays.get("longest")
    if longest is not None and longest < context:
        return f"longest document {int(longest)} tokens"
    tail = ""
    if scored.data.overrides.tail == DROP:
        tail = ", the last one left out where it is shorter"
    return f"in windows of {context} tokens, {stride} apart{tail}"


def drift_of(rise: ArrayLike, documents: ArrayLike, one_document: bool = False) -> Estimate:
    """Return the relative rise of perplexity.

    Args:
        rise: ``(tokens,)``, rise of the negative log-likelihood in nats.
        documents: ``(tokens,)``, the document of each token, or its window.
        one_document: whether ``documents`` are consecutive windows of one document.
    """
    return (series_mean if one_document else studentized_mean)(rise, documents).map(_expm1)


def _expm1(value: float) -> float:
    """Return ``exp(value) - 1``; -inf, the end of a missing interval, stays -inf."""
    if value == -math.inf:
        return value
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
