"""Scaling channels to prepare quantization, without changing the outputs of the model."""
