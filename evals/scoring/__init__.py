"""Scorers: each runs a model on a data set, and returns arrays that metrics are computed from."""
