"""Metrics, one per file: pure functions over arrays, and their computation on a scored pair."""
