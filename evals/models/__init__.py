"""Loaded models: loading, cache and devices."""
