"""Data sets: items, and the rows and tables from which they are read."""
