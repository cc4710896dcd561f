"""Structured pruning: heads and channels that really go."""
