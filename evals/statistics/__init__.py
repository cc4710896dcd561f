"""Confidence intervals and tests over per-item values, clustered by document.

All functions are pure and compute in float64. Items of one document are correlated, so the document
is the unit of sampling, not the item. The coverage of every interval is simulated by
`python -m compression_gates.fixtures.experiments.simulation`.
"""
