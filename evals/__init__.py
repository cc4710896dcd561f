"""Scoring, metrics, statistics, gates, the store and the report. Knows no compression method."""
