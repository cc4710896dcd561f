"""Sample logs of lm-evaluation-harness."""
