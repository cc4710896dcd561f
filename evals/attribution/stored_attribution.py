"""Attribute a candidate's divergence to its modules once, and keep the result in the store."""

from collections.abc import Mapping

import numpy as np

from compression_gates.evals.attribution.attribution import Attribution, not_found
from compression_gates.evals.attribution.causes import configuration_causes
from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.findings import CheckpointComparison
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.guard import TimeUp, guarded
from compression_gates.evals.measuring import Measurer
from compression_gates.evals.store.provenance import source_version

SECONDS = 1800
"""Time limit of an attribution with loading the models, which is enforced if a single pass takes
so long that the budget of the search cannot be."""
_SOURCE = "compression_gates.evals.attribution.attribute"


def attribution_of(
    measurer: Measurer,
    baseline: Checkpoint,
    candidate: Checkpoint,
    data: DataSet,
    comparison: CheckpointComparison | None = None,
) -> Attribution:
    """Return where the divergence of a candidate on a data set comes from.

    Both models are run as transformers loads them, whatever engine quality is scored on.

    Args:
        measurer: loads the models, and stores the result.
        baseline, candidate: the checkpoints.
        data: data with predictions to compare.
        comparison: the comparison of the checkpoints, whose differences of configuration are named
            as causes.

    Returns:
        An attribution with a reason, if the two models do not fit into memory together, or an error
        occurs.
    """
    causes = configuration_causes(comparison)
    if not measurer.models.fit_together(baseline, candidate):
        return not_found("the candidate does not fit into memory beside its baseline", causes)
    origin = {
        **measurer.model_origin(candidate),
        "baseline": measurer.model_origin(baseline),
        "data": data.digest,
        "settings": sorted(data.overrides.given.items()),
        "causes": list(causes),
        "attribution": source_version((_SOURCE,), ("compression_gates.evals",)),
        "protocol": {"task": "attribution"},
    }

    def run() -> Mapping[str, np.ndarray]:
        from compression_gates.evals.attribution.attribute import attribute

        models = measurer.models
        try:
            with guarded("attribution failed", SECONDS):
                after, before = models.load(candidate, like=baseline), models.load(baseline)
                result = attribute(before, after.model, data, measurer.batch_tokens, causes)
        except EvalError as error:
            if not isinstance(error.__cause__, TimeUp):
                raise
            # It is stored, so that other workers and later runs do not spend the time again.
            result = not_found(f"there was no result after {SECONDS / 60:g} minutes", causes)
        return {"attribution": np.array(result.to_json())}

    try:
        measured = measurer.measure(candidate, origin, run)
        return Attribution.from_json(str(measured["attribution"]))
    except (EvalError, ValueError) as error:
        return not_found(str(error), causes)
