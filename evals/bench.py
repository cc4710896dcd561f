"""Measures checkpoints through the store: each (model, data set) is scored once.

A model is loaded only when something about it is not stored yet, and stays loaded while it is
asked about. Scoring holds the device together with other workers; timing holds it alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals import comparing
from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.findings import CheckpointComparison
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.measuring import Measurer
from compression_gates.evals.metrics.result import Scored
from compression_gates.evals.models.device import all_cores, timed_on
from compression_gates.evals.report.coverage import Coverage, coverage_of
from compression_gates.evals.scores import DIGEST, ModelScores
from compression_gates.evals.scoring.protocols import SpeedProtocol
from compression_gates.evals.statistics.sequential import is_settled
from compression_gates.evals.store.measurement import DamagedError, Measurement
from compression_gates.evals.tasks import ROLES, TASKS, Reference

if TYPE_CHECKING:
    from compression_gates.evals.models.loading import Loaded

WORTH_KEEPING = 1 << 30
"""Bytes of a baseline's predictions that are kept on disk; of more, it is run beside candidates."""
NOISE_BATCH = 1000
"""Tokens of a batch where a baseline is compared with itself."""
DataByRole = Mapping[str, DataSet]
"""The data sets that a model is scored on, by role."""


class Bench(Measurer):
    """Scores, times and compares models on one device."""

    def scores(
        self, checkpoint: Checkpoint, data: DataByRole, baseline: Checkpoint | None = None
    ) -> ModelScores:
        """Score a model on all data sets; a candidate also by its divergence from ``baseline``,
        which is scored first."""
        scored = self._scored(checkpoint, data, baseline)
        weights = self.measure(
            checkpoint,
            {**self.model_origin(checkpoint), "protocol": {"task": "footprint"}},
            lambda: _footprint(self.models.load(checkpoint, like=baseline)),
        )
        return ModelScores(checkpoint.kind, scored, checkpoint, weights)

    def compare(
        self, baseline: Checkpoint, candidate: Checkpoint, data: DataByRole
    ) -> CheckpointComparison:
        """As :func:`evals.comparing.compare`."""
        return comparing.compare(self, baseline, candidate, data)

    def compare_use(self, baseline: Checkpoint, candidate: Checkpoint) -> CheckpointComparison:
        """As :func:`evals.comparing.compare_use`."""
        return comparing.compare_use(self, baseline, candidate)

    def coverage(self, scores: ModelScores) -> list[Coverage]:
        """What each data set that a model was scored on exercised of it."""
        return [
            coverage_of(self, scores.checkpoint, role, scored)
            for role, scored in scores.by_role.items()
        ]

    def noise(self, baseline: Checkpoint, data: DataByRole) -> tuple[ModelScores, ModelScores]:
        """Score a baseline twice, the second time in batches of another size.

        Other batches are padded differently, and their kernels sum in another order. Differences
        between the two are the numerical noise between two runs of one model.
        """
        before = self.scores(baseline, data)
        again = self._scored(baseline, data, baseline, NOISE_BATCH)
        return before, replace(before, by_role=again)

    def _scored(
        self,
        checkpoint: Checkpoint,
        data: DataByRole,
        baseline: Checkpoint | None,
        batch_tokens: int | None = None,
    ) -> dict[str, Scored]:
        """The scored data by role, in the order of :data:`evals.tasks.ROLES`."""
        return {
            role: Scored(data[role], self._task(role, checkpoint, data[role], baseline,
                                                batch_tokens))
            for role in ROLES
            if role in data
        }  # fmt: skip

    def _task(
        self,
        role: str,
        checkpoint: Checkpoint,
        data: DataSet,
        baseline: Checkpoint | None,
        batch_tokens: int | None = None,
    ) -> Measurement:
        """Score a model on data in a role."""
        task = TASKS[checkpoint.kind][role]
        if task.reference is Reference.PREDICTIONS:
            return self._text(checkpoint, data, baseline, batch_tokens)
        protocol = replace(
            task.protocol().overridden(data.overrides),
            batch_tokens=batch_tokens or self.batch_tokens,
        )
        origin = self.origin(checkpoint, data, protocol, batch_tokens)
        inputs: list[object] = []
        if task.reference is Reference.OUTPUT:
            reference = baseline and self._task(role, baseline, data, None)
            origin["reference"] = baseline and self.model_origin(baseline)
            inputs.append(reference and reference.arrays)

        def run() -> Mapping[str, np.ndarray]:
            module, name = task.scorer.split(".")
            score = getattr(import_module(f"compression_gates.evals.scoring.{module}"), name)
            loaded = self.models.load(checkpoint, like=baseline)
            return _routed(loaded, lambda: score(loaded, data, protocol, *inputs))

        return self.measure(checkpoint, origin, run, data)

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
        task = TASKS[checkpoint.kind]["text"]
        usual = replace(task.protocol().overridden(data.overrides), batch_tokens=self.batch_tokens)
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

    def _table_path(self, origin: Mapping[str, object]) -> Path:
        return self.store.beside(self.complete_origin(origin), "log-probabilities.npy")


def _footprint(loaded: "Loaded") -> Mapping[str, np.ndarray]:
    from compression_gates.evals.scoring.footprint import footprint, weights_digest

    vocabulary = max(loaded.tokenizer.get_vocab().values()) + 1
    digest = weights_digest(loaded.model, vocabulary)
    return {**footprint(loaded), DIGEST: np.array(digest)}


def _routed(
    loaded: "Loaded", score: Callable[[], Mapping[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """What a scorer returns, and the tokens that each expert of the model was given meanwhile."""
    from compression_gates.evals.scoring.routing import routed

    with routed(loaded.model) as counts:
        return {**score(), **counts()}
