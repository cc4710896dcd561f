"""Compares the checkpoints of a baseline and a candidate, through the store."""

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

COMPARED = 3600
"""Seconds in which two checkpoints are held side by side; each part of it is bounded by itself."""


def compare(
    measurer: Measurer, baseline: Checkpoint, candidate: Checkpoint, data: "DataByRole"
) -> CheckpointComparison:
    """Looks at both sides before either is scored.

    Raises:
        EvalError: they cannot be compared; the reason is that of the first finding.
    """
    if "labels" in data:
        check_names(baseline, data["labels"])
    used = list(data.values())
    origin = {
        **measurer.model_origin(candidate),
        "baseline": measurer.model_origin(baseline),
        "data": [one.digest for one in used],
        "settings": [[one.name, repr(one.overrides), *one.classes] for one in used],
        "protocol": {"task": "compare"},
    }

    def run() -> Mapping[str, np.ndarray]:
        from compression_gates.evals.checkpoints.compare import Sides, compare
        from compression_gates.evals.checkpoints.description import check_description
        from compression_gates.evals.checkpoints.tokenizer_trial import check_encoding

        for side in (baseline, candidate):
            check_description(side)
        for side in (baseline, candidate):
            check_encoding(side, used)
        found = compare(Sides(baseline, candidate, used, measurer.trust_remote_code))
        for side in (baseline, candidate):
            side.check_unchanged()
        return {"comparison": np.array(found.to_json())}

    found = CheckpointComparison.from_json(
        str(measurer.measure(candidate, origin, run, seconds=COMPARED)["comparison"])
    )
    if refused := found.of(Severity.REFUSED):
        raise EvalError(refused[0])
    return found


def compare_use(
    measurer: Measurer, baseline: Checkpoint, candidate: Checkpoint
) -> CheckpointComparison:
    """Holds side by side what loading and plain use of both led to. Loads what is not stored,
    so that it costs little beside scoring."""
    from compression_gates.evals.checkpoints import plain_use

    before = _plain_use(measurer, baseline)
    return plain_use.compare(before, _plain_use(measurer, candidate, baseline))


def _plain_use(
    measurer: Measurer, checkpoint: Checkpoint, baseline: Checkpoint | None = None
) -> "PlainUse":
    from compression_gates.evals.checkpoints.plain_use import PlainUse

    def run() -> Mapping[str, np.ndarray]:
        loaded = measurer.models.load(checkpoint, like=baseline)
        return {"use": np.array(loaded.plain_use.to_json())}

    origin = {**measurer.model_origin(checkpoint), "protocol": {"task": "plain use"}}
    return PlainUse.from_json(str(measurer.measure(checkpoint, origin, run)["use"]))
