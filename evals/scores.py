"""The scores of a baseline and a candidate on the same items, from which metrics are computed."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints.checkpoint import EXTRACTIVE, LOG, Checkpoint
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.result import MetricResult, Scored, not_judged
from compression_gates.evals.running import EAGER
from compression_gates.evals.store.measurement import Measurement

if TYPE_CHECKING:
    import numpy as np

    from compression_gates.evals.checkpoints.findings import CheckpointComparison
    from compression_gates.evals.report.coverage import Coverage

PREDICTED = "predicted"
"""Used in place of a role: the data on which two models' predictions are compared."""
DIGEST = "weights_digest"
"""The array of the measurement of a model's weights that is not a count."""


@dataclass(frozen=True)
class EngineRun:
    """What an engine measured of a baseline and a candidate.

    Attributes:
        engine: how both were run; see :mod:`evals.models.engine`.
        kernels: the kernels of the baseline and of the candidate.
        arrays: the measurement; see :data:`evals.store.array_schemas.SCHEMAS`.
        reason: why nothing was measured; empty if it was.
    """

    engine: str = ""
    kernels: tuple[str, str] = ("", "")
    arrays: Mapping[str, "np.ndarray"] = field(default_factory=dict)
    reason: str = ""

    @property
    def kernel(self) -> str:
        """The engine and the kernels of the candidate; the engine is left out if it is eager."""
        kernel = self.kernels[1]
        return kernel if self.engine == EAGER else f"{self.engine}, {kernel}"


NOT_RUN = EngineRun(reason="it was not timed")
NO_NAIVE = not_judged("no naive counterpart was scored")


def predicted_role(kind: str, roles: Container[str]) -> str:
    """Return which of the ``roles`` stands for :data:`PREDICTED` for a kind of model."""
    if kind == EXTRACTIVE:
        return "answers"
    return "labels" if "labels" in roles else "text"


@dataclass(frozen=True)
class Scores:
    """The scores of one side of a pair on each data set.

    Attributes:
        by_role: the scored data by role; see :data:`evals.tasks.ROLES`.
    """

    by_role: Mapping[str, Scored]

    kind = LOG
    """Kind of the model, or ``log``."""

    @property
    def form(self) -> str:
        """The form in which the weights are stored."""
        raise NotImplementedError

    @property
    def timed_data(self) -> DataSet:
        """The data on which the model is timed.

        Raises:
            EvalError: there are no data.
        """
        if not self.by_role:
            raise EvalError("there is no data set to time the models on; name one in the suite")
        return next(iter(self.by_role.values())).data

    def __getitem__(self, role: str) -> Scored:
        return self.by_role[role]

    def get(self, role: str) -> Scored | None:
        """Return the scored data of a role or of :data:`PREDICTED`; None if there are none.

        Predictions are next tokens, classes, or the first and last tokens of extracted answers.
        """
        if role == PREDICTED:
            role = predicted_role(self.kind, self.by_role)
        return self.by_role.get(role)


@dataclass(frozen=True)
class LogScores(Scores):
    """The scores that a log of lm-evaluation-harness holds."""

    form = "lm-eval log"


@dataclass(frozen=True)
class ModelScores(Scores):
    """The scores of a model, and the size of its weights.

    Attributes:
        checkpoint: the model.
        weights: the measurement of its weights.
    """

    checkpoint: Checkpoint
    weights: Measurement

    @property
    def kind(self) -> str:
        return self.checkpoint.kind

    @property
    def form(self) -> str:
        return self.checkpoint.form

    @property
    def weight_bytes(self) -> int:
        """The number of bytes of the weights on disk."""
        return self.checkpoint.weight_bytes

    @property
    def footprint(self) -> dict[str, float]:
        """Counts of parameters, of zeros, and of layers with an N:M pattern."""
        counts = self.weights.arrays.items()
        return {name: float(count) for name, count in counts if name != DIGEST}


@dataclass(frozen=True)
class Pair:
    """A baseline and a candidate that were scored on the same items.

    Attributes:
        baseline, candidate: the scores of each model.
        comparison: the comparison of the two checkpoints; None for logs.
        runs: what was measured of each workload, or the error that the measurement ended in.
        naive: the scores of the candidate's naive counterpart, which was compressed in the same way
            without data, on :data:`PREDICTED`; its label says how. A result that is not judged if
            there are none.
        coverage: which part of the baseline each data set exercised.
        notes: notes that the methods of a recipe made while they were applied.
    """

    baseline: Scores
    candidate: Scores
    comparison: "CheckpointComparison | None" = None
    runs: Mapping[str, EngineRun | Exception] = field(default_factory=dict)
    naive: ModelScores | MetricResult = NO_NAIVE
    coverage: "Sequence[Coverage]" = ()
    notes: Sequence[str] = ()

    def run(self, workload: str) -> EngineRun:
        """Return what an engine measured of a workload.

        Raises:
            Exception: the error that the measurement ended in.
        """
        run = self.runs.get(workload, NOT_RUN)
        if isinstance(run, Exception):
            raise run
        return run

    @property
    def is_unchanged(self) -> bool:
        """Whether the candidate has the baseline's weights, so that nothing is compressed."""
        sides = self.baseline, self.candidate
        if not all(isinstance(side, ModelScores) for side in sides):
            return False
        before, after = (str(side.weights.arrays.get(DIGEST, "")) for side in sides)
        return bool(before) and before == after

    @property
    def form(self) -> str:
        """The stored form of the candidate, with its dtype if that differs from the baseline's."""
        form = self.candidate.form
        dtype, baseline_dtype = (
            side.checkpoint.dtype if isinstance(side, ModelScores) else ""
            for side in (self.candidate, self.baseline)
        )
        return f"{form} in {dtype}" if dtype and dtype != baseline_dtype else form
