"""A model in memory: its layers, what they are given, changes to them, and its training."""
