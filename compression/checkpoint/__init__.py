"""Checkpoints of compressed models: formats, packing, saving and loading."""
