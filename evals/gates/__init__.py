"""Gates, verdicts and their explanation, and comparison with earlier runs."""
