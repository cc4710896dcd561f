"""Quantization: grids, and ways to fill them."""
