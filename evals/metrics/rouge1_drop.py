"""ROUGE-1 of summaries (Lin 2004), by the rouge-score package: F-measure of unigrams, stemmed."""

from functools import cache, lru_cache

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, SEQ2SEQ
from compression_gates.evals.metrics.answers import mean_drop
from compression_gates.evals.metrics.metric import ScoreDrop
from compression_gates.evals.metrics.reading import Reading, Scored
from compression_gates.evals.metrics.registry import register


@cache
def _scorer():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], use_stemmer=True)


@lru_cache(maxsize=1 << 16)  # a baseline's summaries are scored again beside every candidate's
def rouge1(expected: str, got: str) -> float:
    """F-measure of ROUGE-1 between a summary and its reference."""
    return _scorer().score(expected, got)["rouge1"].fmeasure


def rouge1_drop(baseline: Scored | None, candidate: Scored | None) -> Reading:
    """Fall of the mean ROUGE-1."""
    return mean_drop(rouge1, baseline, candidate)


register(ScoreDrop(
    name="rouge1_drop", title="ROUGE-1", promise="ROUGE-1 falls by at most {limit}",
    function=rouge1_drop, scored="summaries",
    needs={CAUSAL: ("summaries",), SEQ2SEQ: ("summaries",)}, lm_eval=("rouge1",), order=32,
))  # fmt: skip
