"""A small run of the gates, in this process."""

from pathlib import Path

import pytest

from compression_gates.evals.bench import Bench
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.store.store import Store
from compression_gates.fixtures.suite.lab import Lab
from compression_gates.fixtures.suite.matrix import Candidate, candidates
from compression_gates.fixtures.suite.own_formats import OWN_FORMATS
from compression_gates.fixtures.suite.profile import read_profile

PROFILE = """
[data.reviews]
source = "reviews"
count = 20

[data.passages]
source = "passages"
count = 4

[data.questions]
source = "questions"
count = 6

[[suite]]
kind = "classifier"
baselines = ["bert-tiny"]
recipes = ["rtn-int8", "rtn-int4,symmetric=false"]
labels = "reviews"

[suite.gates]
js_divergence = 0.05
accuracy_drop = 0.1
compression_ratio = 0.99

[[suite]]
kind = "causal"
baselines = ["llama-tiny"]
recipes = ["magnitude-30"]
text = "passages"
answers = "questions"
continuations = "passages"

[suite.gates]
js_divergence = 0.05
perplexity_drift = 0.1
exact_match_drop = 0.2
continuation_changes = 0.2
"""


class Small:
    """Judges the candidates of a small profile.

    Args:
        folder: where the profile is written.
    """

    def __init__(self, folder: Path):
        file = folder / "small.toml"
        file.write_text(PROFILE)
        self.profile = read_profile(str(file))
        self.candidates = candidates(self.profile)

    def lab(self, root: Path) -> Lab:
        """A lab with a store at ``root``, and no model in memory."""
        return Lab(
            self.profile,
            Bench(Store(root), formats=OWN_FORMATS),
        )

    def numbers(self, lab: Lab) -> dict[tuple[str, str, str], float]:
        """Value and interval of every metric."""
        return {key: found for c in self.candidates for key, found in _numbers(lab, c).items()}


def _numbers(lab: Lab, candidate: Candidate) -> dict:
    pair, found = lab.pair(candidate), {}
    for metric in METRICS:
        gate = candidate.gate(metric)
        if gate is not None and metric != "artifact_differences":
            estimate = METRICS[metric].read(pair, gate.weights).estimate
            for part in ("value", "low", "high"):
                found[candidate.name, metric, part] = getattr(estimate, part)
    return found


def numbers_of(folder: Path) -> dict[tuple[str, str, str], float]:
    """All numbers, measured with the store in a folder."""
    small = Small(folder)
    return small.numbers(small.lab(folder / "store"))


def near(numbers: dict) -> object:
    """What equals ``numbers`` but for last digits, in which two runs may differ."""
    return pytest.approx(numbers, rel=1e-3, abs=1e-6, nan_ok=True)
