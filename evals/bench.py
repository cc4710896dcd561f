"""Measures checkpoints through the store: each (model, data set) is scored once.

A model is loaded only when something about it is not stored yet, and stays loaded while it is
asked about. Scoring holds the device together with other workers; timing holds it alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals import comparing
from compression_gates.evals.checkpoints.checkpoint import CAUSAL, EXTRACTIVE, SEQ2SEQ, Checkpoint
from compression_gates.evals.checkpoints.findings import CheckpointComparison
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.measuring import Measurer
from compression_gates.evals.metrics.reading import Scored
from compression_gates.evals.models.device import all_cores, timed_on
from compression_gates.evals.report.coverage import Coverage, coverage_of
from compression_gates.evals.scoring.protocols import (
    ContinuationProtocol,
    SpeedProtocol,
    TextProtocol,
    protocol_of,
    set_by,
)
from compression_gates.evals.statistics.sequential import is_settled
from compression_gates.evals.store.measurement import DamagedError, Measurement

if TYPE_CHECKING:
    from compression_gates.evals.models.loading import Loaded

WORTH_KEEPING = 1 << 30
"""Bytes of a baseline's predictions that are kept on disk; of more, it is run beside candidates."""
NOISE_BATCH = 1000
"""Tokens of a batch where a baseline is held against itself."""
_SIMULATED, _DIGEST = "simulated", "weights_digest"


@dataclass(frozen=True)
class Tasks:
    """The data sets that a model is scored on, by role; None where a role has none.

    Attributes:
        text: to predict token by token, or to classify without labels.
        answers: questions with short answers.
        summaries: passages to summarise.
        labels: texts with their classes.
        continuations: prompts that are continued, without a right answer.
    """

    text: DataSet | None = None
    answers: DataSet | None = None
    summaries: DataSet | None = None
    labels: DataSet | None = None
    continuations: DataSet | None = None

    @property
    def any(self) -> DataSet:
        for data in vars(self).values():
            if data is not None:
                return data
        raise EvalError("no data set to score on")


@dataclass(frozen=True)
class Scores:
    """What one model scored, by role as in :class:`Tasks`, and what its weights are."""

    checkpoint: Checkpoint
    weights: Measurement
    text: Scored | None = None
    answers: Scored | None = None
    summaries: Scored | None = None
    labels: Scored | None = None
    continuations: Scored | None = None

    @property
    def predicted(self) -> Scored | None:
        """Where predictions are compared, right or wrong: next tokens, classes, or the ends of
        extracted answers."""
        if self.checkpoint.kind == EXTRACTIVE:
            return self.answers
        return self.labels or self.text

    @property
    def weight_bytes(self) -> int:
        return self.checkpoint.weight_bytes

    @property
    def footprint(self) -> dict[str, float]:
        """Parameters, zeros and N:M truth of the weights."""
        words = (_SIMULATED, _DIGEST)
        counts = {name: array for name, array in self.weights.arrays.items() if name not in words}
        return {name: float(count) for name, count in counts.items()}

    def has_weights_of(self, other: "Scores") -> bool:
        """Whether both models compute with the same weights, however these are stored."""
        digests = [str(side.weights.arrays.get(_DIGEST, "")) for side in (self, other)]
        return bool(digests[0]) and digests[0] == digests[1]

    @property
    def simulated(self) -> str:
        """Why a time of the model says nothing of its stored form; empty where it does."""
        return str(self.weights[_SIMULATED])


class Bench(Measurer):
    """Scores, times and compares models on one device."""

    def scores(
        self, checkpoint: Checkpoint, tasks: Tasks, baseline: Checkpoint | None = None
    ) -> Scores:
        """Scores of a model on all its tasks; of a candidate also its divergence from
        ``baseline``, which is scored first."""
        found = {}
        for role, data in vars(tasks).items():
            if data is None:
                continue
            found[role] = Scored(data, self._role(role, checkpoint, data, baseline))
        weights = self.measure(
            checkpoint,
            {**self.model_origin(checkpoint), "protocol": {"task": "footprint"}},
            lambda: _footprint(self.models.load(checkpoint, like=baseline)),
        )
        return Scores(checkpoint, weights, **found)

    def compare(
        self, baseline: Checkpoint, candidate: Checkpoint, tasks: Tasks
    ) -> CheckpointComparison:
        """As :func:`evals.comparing.compare`."""
        return comparing.compare(self, baseline, candidate, tasks)

    def compare_use(self, baseline: Checkpoint, candidate: Checkpoint) -> CheckpointComparison:
        """As :func:`evals.comparing.compare_use`."""
        return comparing.compare_use(self, baseline, candidate)

    def coverage(self, scores: Scores) -> list[Coverage]:
        """What each data set that a model was scored on exercised of it."""
        return [
            coverage_of(self, scores.checkpoint, role, part)
            for role, part in vars(scores).items()
            if isinstance(part, Scored)
        ]

    def noise(self, baseline: Checkpoint, tasks: Tasks) -> tuple[Scores, Scores]:
        """A baseline beside itself, scored in batches of another size: what differs means nothing.

        Where it runs, other batches pad otherwise and other kernels sum in another order, which is
        all that may differ between two runs of one model.
        """
        before = self.scores(baseline, tasks)
        found: dict[str, Scored] = {}
        for role, data in vars(tasks).items():
            if data is None:
                continue
            found[role] = Scored(data, self._role(role, baseline, data, baseline, NOISE_BATCH))
        return before, Scores(baseline, before.weights, **found)

    def _role(
        self,
        role: str,
        checkpoint: Checkpoint,
        data: DataSet,
        baseline: Checkpoint | None,
        batch_tokens: int | None = None,
    ) -> Measurement:
        if role == "text" and checkpoint.kind in (CAUSAL, SEQ2SEQ):
            return self._text(checkpoint, data, baseline, batch_tokens)
        if role == "continuations":
            return self._continuations(checkpoint, data, baseline, batch_tokens)
        return self._other(checkpoint, data, baseline, batch_tokens)

    def race(
        self,
        baseline: Checkpoint,
        candidate: Checkpoint,
        data: DataSet,
        limits: Sequence[float] = (),
        keep_failed: bool = False,
    ) -> Measurement:
        """Times baseline against candidate, alone on the device and on all of its cores.

        Timing goes on until the speedup is proven to lie on one side of each limit, or its budget
        of time ends. The store keeps a timing that proves every limit kept. Any other is made
        again when it is asked for next, except that ``keep_failed`` also keeps a proven failure,
        for what is meant to fail.
        """
        protocol = SpeedProtocol()

        def run() -> Mapping[str, np.ndarray]:
            from compression_gates.evals.scoring.speed import time_pairs

            if not self.models.fit_together(baseline, candidate):
                raise EvalError("it does not fit into memory beside its baseline to be timed")
            sides = self.models.load(baseline), self.models.load(candidate, like=baseline)
            with all_cores():
                return time_pairs(*sides, data, protocol, limits)

        def keep(arrays: Mapping[str, np.ndarray]) -> bool:
            return is_settled(arrays["seconds"], limits, keep_failed)

        origin = self.origin(candidate, data, protocol) | {
            "baseline": self.model_origin(baseline),
            "limits": sorted(limits),
            "machine": timed_on(self.device),
        }
        return self.measure(candidate, origin, run, alone=True, keep=keep)

    def _text(
        self,
        checkpoint: Checkpoint,
        data: DataSet,
        baseline: Checkpoint | None,
        batch_tokens: int | None = None,
    ) -> Measurement:
        usual = replace(set_by(data, TextProtocol()), batch_tokens=self.batch_tokens)
        protocol = replace(usual, batch_tokens=batch_tokens or self.batch_tokens)
        table = self._table_path(self.origin(baseline or checkpoint, data, protocol))
        origin = self.origin(checkpoint, data, protocol, batch_tokens)
        origin["reference"] = baseline and self.model_origin(baseline)
        windows = None
        if baseline is not None:
            windows = self._text(baseline, data, None)["windowing"].tolist()

        def run() -> Mapping[str, np.ndarray]:
            from compression_gates.evals.scoring.text import score_text

            if baseline is None:
                with self.store.locked(table.name):  # candidates may wait for it
                    return self._with_table(checkpoint, data, protocol, table, WORTH_KEEPING)
            # A candidate that takes more is cut as its baseline is.
            same = replace(protocol, context=windows[0], stride=windows[1])

            def against(reference: "Path | Loaded") -> Mapping[str, np.ndarray]:
                loaded = self.models.load(checkpoint, like=baseline)
                return _routed(loaded, lambda: score_text(loaded, data, same, reference=reference))

            most = math.inf
            if table.exists():
                try:
                    return against(table)
                except DamagedError:
                    self._discard_if_damaged(table)
                    most = WORTH_KEEPING
            elif self.models.fit_together(baseline, checkpoint):
                return against(self.models.load(baseline))
            with self.store.locked(table.name):
                if not table.exists():
                    self._with_table(baseline, data, usual, table, most)
            return against(table if table.exists() else self.models.load(baseline))

        return self.measure(checkpoint, origin, run, data)

    def _discard_if_damaged(self, table: Path) -> None:
        """Looks again under the lock: another worker may have made a whole table meanwhile."""
        from compression_gates.evals.scoring.prediction_table import PredictionTable

        with self.store.locked(table.name):
            if not table.exists():
                return
            try:
                with PredictionTable(table) as found:
                    found.check()
            except DamagedError as error:
                self.store.discard(table, error)

    def _with_table(
        self, checkpoint: Checkpoint, data: DataSet, protocol: object, table: Path, most: float
    ) -> Mapping[str, np.ndarray]:
        """Scores a baseline, and keeps its predictions where they take at most ``most`` bytes; the
        lock of the table is held."""
        from compression_gates.evals.scoring.text import score_text

        keep = None if table.exists() else table
        loaded = self.models.load(checkpoint)
        return _routed(loaded, lambda: score_text(loaded, data, protocol, keep=keep, most=most))

    def _other(
        self,
        checkpoint: Checkpoint,
        data: DataSet,
        baseline: Checkpoint | None,
        batch_tokens: int | None = None,
    ) -> Measurement:
        protocol, scorer = protocol_of(checkpoint.kind, data)
        protocol = replace(protocol, batch_tokens=batch_tokens or self.batch_tokens)

        def run() -> Mapping[str, np.ndarray]:
            module, name = scorer
            score = getattr(import_module(f"compression_gates.evals.scoring.{module}"), name)
            loaded = self.models.load(checkpoint, like=baseline)
            return _routed(loaded, lambda: score(loaded, data, protocol))

        origin = self.origin(checkpoint, data, protocol, batch_tokens)
        return self.measure(checkpoint, origin, run, data)

    def _continuations(
        self,
        checkpoint: Checkpoint,
        data: DataSet,
        baseline: Checkpoint | None,
        batch_tokens: int | None = None,
    ) -> Measurement:
        protocol = set_by(data, ContinuationProtocol(), leave="max_new_tokens")
        protocol = replace(protocol, batch_tokens=batch_tokens or self.batch_tokens)
        reference = None if baseline is None else self._continuations(baseline, data, None)
        origin = self.origin(checkpoint, data, protocol, batch_tokens)
        origin["reference"] = baseline and self.model_origin(baseline)

        def run() -> Mapping[str, np.ndarray]:
            from compression_gates.evals.scoring.continuation import continue_prompts

            loaded = self.models.load(checkpoint, like=baseline)
            given = reference and reference.arrays
            return _routed(loaded, lambda: continue_prompts(loaded, data, protocol, given))

        return self.measure(checkpoint, origin, run, data)

    def _table_path(self, origin: Mapping[str, object]) -> Path:
        return self.store.beside(self.complete_origin(origin), "log-probabilities.npy")


def _footprint(loaded: "Loaded") -> Mapping[str, np.ndarray]:
    from compression_gates.evals.scoring.footprint import footprint, weights_digest

    vocabulary = max(loaded.tokenizer.get_vocab().values()) + 1
    digest = weights_digest(loaded.model, vocabulary)
    return {**footprint(loaded), _DIGEST: np.array(digest)}


def _routed(
    loaded: "Loaded", score: Callable[[], Mapping[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """What a scorer returns, and the tokens that each expert of the model was given meanwhile."""
    from compression_gates.evals.scoring.routing import routed

    with routed(loaded.model) as counts:
        return {**score(), **counts()}
