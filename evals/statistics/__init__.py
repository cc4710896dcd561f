"""Intervals and tests over per-item values, clustered by document. Pure, in float64.

Items of one document resemble each other, so a document, not an item, is the unit of sampling.
`python -m compression_gates.fixtures.experiments.simulation` shows how often each interval covers
the truth.
"""
