"""Run calibration batches through a model and collect statistics of its layers."""
