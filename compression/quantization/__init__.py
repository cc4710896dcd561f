"""Quantization of weights and of the inputs of linear layers."""
