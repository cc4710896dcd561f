"""Pruning weights: scores and masks."""
