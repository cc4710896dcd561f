"""The gates: a file per metric."""
