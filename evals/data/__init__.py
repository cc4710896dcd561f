"""Data sets: items, and the rows and tables that they are read from."""
