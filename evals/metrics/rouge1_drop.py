"""ROUGE-1 of summaries (Lin 2004): F-measure of stemmed unigrams, by the rouge-score package."""

from functools import cache, lru_cache

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, SEQ2SEQ
from compression_gates.evals.metrics.answer_scores import mean_drop
from compression_gates.evals.metrics.metric import ScoreDrop
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, Scored


@cache
def _scorer():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], use_stemmer=True)


@lru_cache(maxsize=1 << 16)  # a baseline's summaries are scored once per candidate
def rouge1(expected: str, got: str) -> float:
    """Return the ROUGE-1 F-measure of a summary and its reference."""
    return _scorer().score(expected, got)["rouge1"].fmeasure


def rouge1_drop(baseline: Scored | None, candidate: Scored | None) -> MetricResult:
    """Return the drop of the mean ROUGE-1."""
    return mean_drop(rouge1, baseline, candidate)


register(ScoreDrop(
    name="rouge1_drop", title="ROUGE-1", promise="ROUGE-1 falls by at most {limit}",
    function=rouge1_drop, scored="summaries",
    needs={CAUSAL: ("summaries",), SEQ2SEQ: ("summaries",)}, lm_eval=("rouge1",), order=32,
))  # fmt: skip
