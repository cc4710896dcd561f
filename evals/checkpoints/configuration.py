"""Settings of two ``config.json`` that change what a model computes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evals.checkpoint import json_object
from evals.checkpoints.findings import CheckpointComparison, Finding

if TYPE_CHECKING:
    from evals.checkpoints.compare import Sides

_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")


def compare(sides: "Sides") -> CheckpointComparison:
    """Holds the settings of two configurations side by side, by what they mean."""
    if sides.candidate.file or sides.candidate.base is not None:
        return CheckpointComparison(
            not_compared={"configuration": "the checkpoint has none of its own"}
        )
    one, two = (
        _epsilon(json_object(side.path / "config.json"))
        for side in (sides.baseline, sides.candidate)
    )
    if one == two:
        return CheckpointComparison(compared=("configuration",))
    text = f"the epsilon of its normalization is {one} for the baseline and {two} for the candidate"
    return CheckpointComparison((Finding("normalization", text),), ("configuration",))


def _epsilon(described: Mapping[str, object]) -> object:
    return next((described[name] for name in _EPSILONS if name in described), None)
