"""Scoring of checkpoints through the store: each pair of model and data set is scored once.

A model is loaded when a measurement of it is missing from the store, and stays loaded while it is
in use. Scoring shares the device with other workers; timing holds it exclusively.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals import comparing, running
from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.measuring import Measurer
from compression_gates.evals.metrics.result import Scored
from compression_gates.evals.models.cache import AS_USUAL
from compression_gates.evals.noise import BATCH, Variant, variant_of
from compression_gates.evals.report.coverage import Coverage, coverage_of
from compression_gates.evals.scores import DIGEST, ModelScores
from compression_gates.evals.scoring.baseline_files import BaselineFiles
from compression_gates.evals.scoring.protocols import Protocol
from compression_gates.evals.store.measurement import DamagedError, Measurement
from compression_gates.evals.tasks import ROLES, TASKS, Reference, Task

if TYPE_CHECKING:
    from compression_gates.evals.models.loading import Loaded

MAX_LOGITS_BYTES = 1 << 30
"""Largest table of a baseline's logits that is kept on disk. If a table would be larger, the
baseline is run beside each candidate. Last hidden states, from which the logits of most models can
be computed, are always kept."""
DataByRole = Mapping[str, DataSet]
"""The data sets that a model is scored on, by role."""


class Bench(Measurer):
    """Scores, times and compares models on one device."""

    def scores(
        self, checkpoint: Checkpoint, data: DataByRole, baseline: Checkpoint | None = None
    ) -> ModelScores:
        """Score a model on all data sets.

        Args:
            checkpoint: the model.
            data: the data sets by role.
            baseline: of a candidate; it is scored first, and the candidate's divergence from it is
                computed.
        """
        scored = self._scored(checkpoint, data, baseline)
        weights = self.measure(
            checkpoint,
            {**self.model_origin(checkpoint), "protocol": {"task": "footprint"}},
            lambda: _footprint(self.models.load(checkpoint, like=baseline)),
        )
        return ModelScores(scored, checkpoint, weights)

    compare = comparing.compare
    compare_use = comparing.compare_use
    kernel = running.kernel
    time_pair = running.time_pair
    peak_memory = running.peak_memory

    def coverage(self, scores: ModelScores) -> list[Coverage]:
        """Return which part of a model was exercised by each data set that it was scored on."""
        return [
            coverage_of(self, scores.checkpoint, role, scored)
            for role, scored in scores.by_role.items()
        ]

    def noise(
        self, baseline: Checkpoint, data: DataByRole, source: str = BATCH
    ) -> tuple[ModelScores, ModelScores]:
        """Score a baseline twice, the second time computed in another way.

        The differences are the numerical noise between two runs of one model.

        Args:
            baseline: the model.
            data: the data sets by role.
            source: what is computed in another way; one of :data:`evals.noise.SOURCES`.

        Raises:
            EvalError: the model cannot be computed in another way; the message is the reason.
        """
        variant = variant_of(self, baseline, source)
        before = self.scores(baseline, data)
        after = self._scored(baseline, data, baseline, variant)
        return before, replace(before, by_role=after)

    def _scored(
        self,
        checkpoint: Checkpoint,
        data: DataByRole,
        baseline: Checkpoint | None,
        variant: Variant | None = None,
    ) -> dict[str, Scored]:
        """Score a model on the data of each role, in the order of :data:`evals.tasks.ROLES`."""
        scored = {}
        for role in ROLES:
            if role in data:
                measurement = self._task(role, checkpoint, data[role], baseline, variant)
                scored[role] = Scored(data[role], measurement)
        return scored

    def _task(
        self,
        role: str,
        checkpoint: Checkpoint,
        data: DataSet,
        baseline: Checkpoint | None,
        variant: Variant | None = None,
    ) -> Measurement:
        """Score a model on data in a role."""
        task = TASKS[checkpoint.kind][role]
        if task.reference is Reference.PREDICTIONS:
            return self._text(task, checkpoint, data, baseline, variant)
        protocol = self._protocol(task, data, variant)
        origin = self.origin(checkpoint, data, protocol, variant)
        inputs: list[object] = []
        if task.reference is Reference.OUTPUT:
            reference = baseline and self._task(role, baseline, data, None)
            origin["reference"] = baseline and self.model_origin(baseline)
            inputs.append(reference and reference.arrays)

        def run() -> Mapping[str, np.ndarray]:
            return self._run(task, checkpoint, baseline, data, protocol, *inputs, variant=variant)

        return self.measure(checkpoint, origin, run, data)

    def _run(
        self,
        task: Task,
        checkpoint: Checkpoint,
        like: Checkpoint | None,
        *args,
        variant: Variant | None = None,
        **options,
    ) -> dict[str, np.ndarray]:
        """Run the scorer of a task on a model, and count the tokens of each expert if the model has
        any."""
        from compression_gates.evals.scoring.routing import count_expert_tokens

        module, name = task.scorer.split(".")
        score = getattr(import_module(f"compression_gates.evals.scoring.{module}"), name)
        loaded = self._loaded(checkpoint, like, variant)
        with count_expert_tokens(loaded.model) as counts:
            return {**score(loaded, *args, **options), **counts()}

    def _loaded(
        self,
        checkpoint: Checkpoint,
        like: Checkpoint | None = None,
        variant: Variant | None = None,
    ) -> "Loaded":
        """Load a model, on the engine that quality is scored on."""
        computed = AS_USUAL if variant is None else variant.computed
        loaded = self.models.load(checkpoint, like, computed)
        if self.quality_engine:
            return running.scored_on(loaded, self.quality_engine, self.models.formats)
        return loaded

    def _protocol(self, task: Task, data: DataSet, variant: Variant | None = None) -> Protocol:
        protocol = task.protocol().overridden(data.overrides)
        batch_tokens = variant and variant.batch_tokens
        return replace(protocol, batch_tokens=batch_tokens or self.batch_tokens)

    def _text(
        self,
        task: Task,
        checkpoint: Checkpoint,
        data: DataSet,
        baseline: Checkpoint | None,
        variant: Variant | None = None,
    ) -> Measurement:
        """Score the tokens of a data set; a candidate's predictions are compared with those of its
        baseline, from files or side by side."""
        protocol = self._protocol(task, data, variant)
        files = self._prediction_files(baseline or checkpoint, data, protocol)
        origin = self.origin(checkpoint, data, protocol, variant)
        origin["reference"] = baseline and self.model_origin(baseline)
        computed = AS_USUAL if variant is None else variant.computed
        windows = None
        if baseline is not None:
            windows = self._text(task, baseline, data, None)["windowing"].tolist()

        def run() -> Mapping[str, np.ndarray]:
            if baseline is None:
                with self.store.locked(files.rows.name):  # workers with candidates may wait for it
                    return self._write_predictions(
                        task, checkpoint, data, protocol, files, MAX_LOGITS_BYTES
                    )
            # The windows are the baseline's, also if the candidate has a longer context.
            windowed = replace(protocol, context=windows[0], stride=windows[1])

            def against(reference: "BaselineFiles | Loaded") -> Mapping[str, np.ndarray]:
                return self._run(
                    task, checkpoint, baseline, data, windowed, reference=reference, variant=variant
                )

            max_bytes = math.inf
            if files.rows.exists():
                try:
                    return against(files)
                except DamagedError:
                    self._discard_if_damaged(files)
                    max_bytes = MAX_LOGITS_BYTES
            elif self.models.fit_together(baseline, checkpoint, computed):
                return against(self._loaded(baseline))
            with self.store.locked(files.rows.name):
                if not files.rows.exists():
                    usual = self._protocol(task, data)
                    self._write_predictions(task, baseline, data, usual, files, max_bytes)
            return against(files if files.rows.exists() else self._loaded(baseline))

        return self.measure(checkpoint, origin, run, data)

    def _discard_if_damaged(self, files: BaselineFiles) -> None:
        """Discard damaged files under their lock, unless another worker has replaced them."""
        from compression_gates.evals.scoring.baseline_predictions import check_files

        with self.store.locked(files.rows.name):
            if not files.rows.exists():
                return
            try:
                check_files(files)
            except DamagedError as error:
                self.store.discard(files.rows, error)
                # It may be the head that is damaged; it is written with the rows.
                with self.store.locked(files.head.name):
                    files.head.unlink(missing_ok=True)

    def _write_predictions(
        self,
        task: Task,
        checkpoint: Checkpoint,
        data: DataSet,
        protocol: Protocol,
        files: BaselineFiles,
        max_bytes: float,
    ) -> Mapping[str, np.ndarray]:
        """Score a baseline, and write its predictions: its last hidden states, or its logits if
        they have at most ``max_bytes``.

        The caller holds the lock of the rows.
        """
        keep = None if files.rows.exists() else files
        return self._run(
            task, checkpoint, None, data, protocol, keep=keep, max_logits_bytes=max_bytes
        )

    def _prediction_files(
        self, baseline: Checkpoint, data: DataSet, protocol: Protocol
    ) -> BaselineFiles:
        def beside(origin: Mapping[str, object], name: str) -> Path:
            return self.store.beside(self.complete_origin(origin), name)

        rows = beside(self.origin(baseline, data, protocol), "predictions.npy")
        head = beside(self.model_origin(baseline), "head.npy")
        return BaselineFiles(rows, head, self.store.locked)


def _footprint(loaded: "Loaded") -> Mapping[str, np.ndarray]:
    from compression_gates.evals.scoring.footprint import footprint, weights_digest

    vocabulary = max(loaded.tokenizer.get_vocab().values()) + 1
    digest = weights_digest(loaded.model, vocabulary)
    return {**footprint(loaded), DIGEST: np.array(digest)}
