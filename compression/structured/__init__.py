"""Structured pruning, which removes whole attention heads and FFN channels."""
