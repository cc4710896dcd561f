"""Stored measurements: files, keys and locks."""
