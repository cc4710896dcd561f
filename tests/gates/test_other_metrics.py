"""Gates on metrics without a file of their own, such as those of other distributions."""


def test_other_metrics(pair, gate):
    """The metric keeps the limit that the profile sets."""
    gate.holds(gate.read(pair))
