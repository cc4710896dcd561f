"""Distillation: students, what they learn from their teachers, and more texts to learn from."""
