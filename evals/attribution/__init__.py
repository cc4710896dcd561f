"""Which modules of a candidate its divergence from the baseline comes from."""
