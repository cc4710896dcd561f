"""Runs models on data. Each scorer gives arrays, one entry per item; nothing here judges."""
