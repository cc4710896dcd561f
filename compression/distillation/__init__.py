"""Distillation: students, losses, and augmentation of the training texts."""
