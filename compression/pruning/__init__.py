"""Unstructured and N:M pruning of linear layers."""
