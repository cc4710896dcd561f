"""Metrics: a file each, pure functions over arrays, with one that reads a scored pair."""
