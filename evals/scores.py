"""A baseline and a candidate that were scored on the same items: what all metrics are read from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints.checkpoint import EXTRACTIVE, Checkpoint
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.metrics.result import MetricResult, Scored
from compression_gates.evals.store.measurement import Measurement

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.findings import CheckpointComparison
    from compression_gates.evals.report.coverage import Coverage

PREDICTED = "predicted"
"""In place of a role: the data on which predictions are compared, whether right or wrong."""
SIMULATED, DIGEST = "simulated", "weights_digest"
"""Arrays of the measurement of a model's weights that are no counts."""


@dataclass(frozen=True)
class Scores:
    """What was scored on each data set.

    Attributes:
        kind: of the model, or ``log`` where the numbers are those of a log.
        by_role: the scored data by role; see :data:`evals.tasks.ROLES`.
    """

    kind: str
    by_role: Mapping[str, Scored]

    @property
    def form(self) -> str:
        """How the weights are stored."""
        return "lm-eval log"

    @property
    def timed_data(self) -> DataSet:
        """The data on which the model is timed."""
        return next(iter(self.by_role.values())).data

    def has_weights_of(self, other: "Scores") -> bool:
        """Whether both sides compute with the same weights, however these are stored."""
        return False

    def __getitem__(self, role: str) -> Scored:
        return self.by_role[role]

    def get(self, role: str) -> Scored | None:
        """The scored data of a role or of :data:`PREDICTED`; None where there are none.

        Predictions are next tokens, classes, or the ends of extracted answers.
        """
        if role != PREDICTED:
            return self.by_role.get(role)
        if self.kind == EXTRACTIVE:
            return self.by_role.get("answers")
        return self.by_role.get("labels") or self.by_role.get("text")


@dataclass(frozen=True)
class ModelScores(Scores):
    """What a model scored, and what its weights are.

    Attributes:
        checkpoint: the model.
        weights: the measurement of its weights.
    """

    checkpoint: Checkpoint
    weights: Measurement

    @property
    def form(self) -> str:
        return self.checkpoint.form

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on disk."""
        return self.checkpoint.weight_bytes

    @property
    def footprint(self) -> dict[str, float]:
        """Parameters, zeros, and the share of groups that keep an N:M pattern."""
        counts = self.weights.arrays.items()
        return {name: float(count) for name, count in counts if name not in (SIMULATED, DIGEST)}

    def has_weights_of(self, other: Scores) -> bool:
        if not isinstance(other, ModelScores):
            return False
        digests = [str(side.weights.arrays.get(DIGEST, "")) for side in (self, other)]
        return bool(digests[0]) and digests[0] == digests[1]

    @property
    def simulated(self) -> str:
        """Why timing the model would not time the form in which it is stored; empty where it
        would."""
        return str(self.weights[SIMULATED])


@dataclass(frozen=True)
class Pair:
    """A baseline and a candidate that were scored on the same items.

    Attributes:
        baseline, candidate: what each scored.
        comparison: of the two checkpoints; None where there are none.
        speed: the speedup; None if the pair was not timed.
        coverage: what the data exercised of the baseline.
        notes: notes of the methods of a recipe, made while they were applied.
    """

    baseline: Scores
    candidate: Scores
    comparison: "CheckpointComparison | None" = None
    speed: MetricResult | None = None
    coverage: "Sequence[Coverage]" = ()
    notes: Sequence[str] = ()

    @property
    def is_unchanged(self) -> bool:
        """Whether the candidate computes with its baseline's weights: nothing is compressed."""
        return self.candidate.has_weights_of(self.baseline)

    @property
    def form(self) -> str:
        """How the candidate is stored, with its dtype if that differs from the baseline's."""
        dtypes = [
            side.checkpoint.dtype if isinstance(side, ModelScores) else ""
            for side in (self.candidate, self.baseline)
        ]
        own, theirs = dtypes
        return f"{self.candidate.form} in {own}" if own and own != theirs else self.candidate.form
