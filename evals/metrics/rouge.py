"""ROUGE-1 of summaries (Lin 2004), by the rouge-score package: F-measure of unigrams, stemmed."""

from functools import cache, lru_cache

from compression_gates.evals.metrics.answers import mean_drop
from compression_gates.evals.metrics.reading import Reading, Scored


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
