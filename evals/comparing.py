"""Compare the checkpoints of a baseline and a candidate, and keep the comparison in the store."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import Checkpoint, check_names
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Severity
from compression_gates.evals.errors import EvalError
from compression_gates.evals.measuring import Measurer

if TYPE_CHECKING:
    from compression_gates.evals.bench import DataByRole
    from compression_gates.evals.checkpoints.plain_use import PlainUse

COMPARISON_SECONDS = 3600
"""Time limit of the comparison of two checkpoints; each of its parts has its own limit too."""


def compare(
    measurer: Measurer, baseline: Checkpoint, candidate: Checkpoint, data: "DataByRole"
) -> CheckpointComparison:
    """Compare the files of two checkpoints, before either is scored.

    Raises:
        EvalError: scores of the two cannot be compared; the text is that of the first such finding.
    """
    if "labels" in data:
        check_names(baseline, data["labels"])
    data_sets = list(data.values())
    origin = {
        **measurer.model_origin(candidate),
        "baseline": measurer.model_origin(baseline),
        "data": [item.digest for item in data_sets],
        "settings": [
            [item.name, sorted(item.overrides.given.items()), *item.classes] for item in data_sets
        ],
        "protocol": {"task": "compare"},
    }

    def run() -> Mapping[str, np.ndarray]:
        from compression_gates.evals.checkpoints.compare import Sides, compare
        from compression_gates.evals.checkpoints.description import check_description
        from compression_gates.evals.checkpoints.tokenizer_trial import check_encoding

        # Both configurations are checked before a library reads either of them.
        for side in (baseline, candidate):
            check_description(side)
        for side in (baseline, candidate):
            check_encoding(side, data_sets)
        comparison = compare(Sides(baseline, candidate, data_sets, measurer.trust_remote_code))
        for side in (baseline, candidate):
            side.check_unchanged()
        return {"comparison": np.array(comparison.to_json())}

    measurement = measurer.measure(candidate, origin, run, seconds=COMPARISON_SECONDS)
    comparison = CheckpointComparison.from_json(str(measurement["comparison"]))
    if refused := comparison.of(Severity.REFUSED):
        raise EvalError(refused[0])
    return comparison


def compare_use(
    measurer: Measurer, baseline: Checkpoint, candidate: Checkpoint
) -> CheckpointComparison:
    """Compare how loading and plain use of two checkpoints went.

    Loads models that have no stored result. Scoring needs them loaded anyway, so this adds little
    time.
    """
    from compression_gates.evals.checkpoints import plain_use

    baseline_use = _plain_use(measurer, baseline)
    return plain_use.compare(baseline_use, _plain_use(measurer, candidate, baseline))


def _plain_use(
    measurer: Measurer, checkpoint: Checkpoint, baseline: Checkpoint | None = None
) -> "PlainUse":
    from compression_gates.evals.checkpoints.plain_use import PlainUse

    def run() -> Mapping[str, np.ndarray]:
        loaded = measurer.models.load(checkpoint, like=baseline)
        return {"use": np.array(loaded.plain_use.to_json())}

    origin = {**measurer.model_origin(checkpoint), "protocol": {"task": "plain use"}}
    return PlainUse.from_json(str(measurer.measure(checkpoint, origin, run)["use"]))
