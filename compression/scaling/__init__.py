"""Scaling: weights made easier to quantize, the function kept."""
