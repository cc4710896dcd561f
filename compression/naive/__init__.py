"""Naive counterparts: what was done to each layer of a checkpoint, done again without data."""
