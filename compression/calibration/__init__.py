"""Runs calibration batches through a model and gathers statistics of its layers."""
