"""The history of runs: a database, what changed since a reference, and the series of values."""
