"""What the metrics of generated texts share.

A model generates continuations of prompts, answers and summaries, by greedy decoding. Defects such
as endless or empty texts show in each of them, and need no right answers. Each role of data is
judged by itself, and the largest value of the metric counts, so that a defect of the summaries is
not diluted by healthy answers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, SEQ2SEQ
from compression_gates.evals.metrics.metric import NO_WEIGHTS, Metric
from compression_gates.evals.metrics.regressions import Regression, regression, worst_items
from compression_gates.evals.metrics.result import (
    MetricResult,
    Scored,
    check_paired,
    no_data,
    not_judged,
)
from compression_gates.evals.scores import Pair
from compression_gates.evals.statistics.item_values import INTERVALS, PROPORTION, ItemValues
from compression_gates.evals.statistics.largest import largest
from compression_gates.evals.tasks import TASKS

GENERATED = ("continuations", "answers", "summaries")
"""Roles of data for which texts are generated. Continuations are cut after a few tokens; of the
others, most texts are expected to end."""
MOST = 0.5
"""Share of the baseline's texts with a defect from which on new defects are not judged."""
GenerationFunction = Callable[[Scored, Scored, str], MetricResult]
"""Takes what both models generated for one role of data, and the name of the role."""


def generation_metric(
    function: GenerationFunction, roles: tuple[str, ...] = GENERATED, **fields
) -> Metric:
    """Return a metric of generated texts, whose value is the largest over the roles of data.

    Args:
        function: computes the metric for one role.
        roles: of the data that it uses.
        fields: of :class:`evals.metrics.metric.Metric`.
    """
    needs = {kind: tuple(r for r in roles if r in TASKS[kind]) for kind in (CAUSAL, SEQ2SEQ)}
    return Metric(
        function=partial(worst_role, function=function, roles=roles),
        needs=needs,
        gain_is_plausible=True,  # fewer defects than a defective baseline need no leaked answers
        **fields,
    )


def worst_role(
    pair: Pair,
    weights: Mapping[str, float] = NO_WEIGHTS,
    *,
    function: GenerationFunction,
    roles: tuple[str, ...] = GENERATED,
) -> MetricResult:
    """Return the result of the role of data with the largest value, with an interval that holds for
    the largest value of all ``roles`` (:func:`evals.statistics.largest.largest`).

    It is not judged if no role is. The facts ``in_ROLE`` are the values of all judged roles, and
    the evidence names those that are not judged.
    """
    results = {}
    for role in roles:
        baseline, candidate = pair.baseline.get(role), pair.candidate.get(role)
        if baseline is not None and candidate is not None:
            check_paired(baseline, candidate)
            results[role] = function(baseline, candidate, role)
    if not results:
        return no_data("generated texts")
    judged = {role: result for role, result in results.items() if not result.not_judged}
    if not judged:
        return not_judged("; ".join(result.not_judged for result in results.values()))
    values = {role: result.estimate.value for role, result in judged.items()}
    worst = judged[max(values, key=lambda role: (math.isnan(values[role]), values[role]))]
    facts = {f"in_{role}": value for role, value in values.items()}
    # The role with the largest value can be another one in a later run.
    items = worst.items if len(judged) == 1 else None
    estimates = [result.estimate for result in judged.values()]
    return replace(
        worst,
        estimate=largest(estimates),
        facts=worst.facts | facts,
        items=items,
        evidence=tuple(
            f"{role} not judged: {result.not_judged}"
            for role, result in results.items()
            if result.not_judged
        ),
    )


def finite_values(baseline: Scored, candidate: Scored, values: np.ndarray) -> np.ndarray:
    """Return ``values`` ``(prompts,)`` with NaN where the logits of a model were not finite."""
    return np.where(baseline["finite"] & candidate["finite"], values, np.nan)


def describe_texts(baseline: Scored, candidate: Scored) -> Callable[[int], Regression]:
    """Return a function that describes the prompt at an index with both generated texts."""

    def describe(index: int) -> Regression:
        texts = [str(side["continuations"][index]) for side in (baseline, candidate)]
        return regression(candidate.data, index, baseline=texts[0], candidate=texts[1])

    return describe


def truncated_texts(scored: Scored) -> np.ndarray:
    """Return whether each text reaches the limit of new tokens, ``(prompts,)``."""
    return ~scored["ended"]


def never_ends(scored: Scored) -> str:
    """Return the defect of a text that reaches the limit of new tokens, in words."""
    return f"do not end within {scored['tokens'].shape[1]} tokens"


def baseline_defect(has_defect: np.ndarray, role: str, defect: str) -> str:
    """Return why a metric is not judged if most texts of the baseline have a defect.

    Args:
        has_defect: whether each text of the baseline has it, ``(prompts,)``.
        role: role of the data.
        defect: in words.
    """
    return f"{has_defect.sum()} of {len(has_defect)} {role} of the baseline {defect}"


def new_events(
    baseline: Scored,
    candidate: Scored,
    role: str,
    sides: tuple[np.ndarray, np.ndarray],
    name: str,
    defect: str,
) -> MetricResult:
    """Return the share of texts with a defect that the baseline's text does not have.

    It is not judged if most texts of the baseline have the defect, because the share could hardly
    exceed a limit then. Logits of the candidate that are not finite fail in any case.

    Args:
        baseline, candidate: what both models generated.
        role: role of the data, for messages.
        sides: whether each text of the baseline, and of the candidate, has the defect,
            ``(prompts,)``.
        name: of the share of texts with the defect, among the facts.
        defect: in words, as in ``12 of 480 answers DEFECT``.
    """
    before, after = sides
    if before.mean() > MOST and candidate["finite"].all():
        return not_judged(baseline_defect(before, role, defect))
    values = finite_values(baseline, candidate, (after & ~before).astype(float))
    documents = np.asarray(baseline.data.documents)
    count = int(np.nansum(values))
    new = f"{count} of {len(values)} {role} {defect}, unlike the baseline's"
    return MetricResult(
        estimate=INTERVALS[PROPORTION](values, documents),
        baseline=float(before.mean()),
        candidate=float(after.mean()),
        worst=worst_items(values, describe_texts(baseline, candidate)),
        facts={f"{name}_baseline": float(before.mean()), f"{name}_candidate": float(after.mean())},
        reasons=(new,) if count else (),
        items=ItemValues.of(PROPORTION, values, documents, baseline),
    )
