"""Intervals and tests over per-item values, clustered by document. Pure, in float64.

Items of one document resemble each other, so a document, not an item, is the unit of sampling.
`python -m evals.simulation` shows how often each interval covers the truth.
"""

from evals.statistics.changes import clustered_mcnemar, mcnemar
from evals.statistics.means import clustered_mean, series_mean, studentized_mean
from evals.statistics.resampling import accelerated_mean
from evals.statistics.shares import clustered_proportion, clustered_share
from evals.statistics.tails import FEW

__all__ = [
    "FEW",
    "accelerated_mean",
    "clustered_mcnemar",
    "clustered_mean",
    "clustered_proportion",
    "clustered_share",
    "mcnemar",
    "series_mean",
    "studentized_mean",
]
