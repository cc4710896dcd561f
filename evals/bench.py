"""Measures checkpoints through the store: each (model, data set) is scored once.

A model is loaded only when something about it is not stored yet, and stays loaded while it is
asked about. Scoring holds the device together with other workers; timing holds it alone.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import (
    CAUSAL,
    EXTRACTIVE,
    SEQ2SEQ,
    Checkpoint,
    check_names,
)
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Severity
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.guard import guarded
from compression_gates.evals.metrics.reading import Scored
from compression_gates.evals.models.cache import Models
from compression_gates.evals.models.device import CPU, all_cores, cores, device_facts, timed_on
from compression_gates.evals.report.coverage import Coverage
from compression_gates.evals.scoring.protocols import (
    ContinuationProtocol,
    Protocol,
    SpeedProtocol,
    TextProtocol,
    protocol_of,
    set_by,
)
from compression_gates.evals.statistics.sequential import is_settled
from compression_gates.evals.store.locks import locked
from compression_gates.evals.store.measurement import DamagedError, Measurement
from compression_gates.evals.store.provenance import (
    PACKAGES,
    code_version,
    packages_of,
    unpacked_by,
    version_of,
)
from compression_gates.evals.store.schema import check
from compression_gates.evals.store.store import Store

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.plain_use import PlainUse
    from compression_gates.evals.models.loading import Loaded

WORTH_KEEPING = 1 << 30
"""Bytes of a baseline's predictions that are kept on disk; of more, it is run beside candidates."""
CPU_BATCH, GPU_BATCH = 4096, 16384
"""Tokens of a batch at first; where they do not fit, batches are halved."""
COMPARED = 3600
"""Seconds in which two checkpoints are held side by side; each part of it is bounded by itself."""
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
        raise EvalError("no data set to score on; name one in the profile or give --text FILE")


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


class Bench:
    """Scores and times models on one device.

    Args:
        store: where measurements are kept.
        device, dtype, trust_remote_code, formats: as for :class:`evals.models.cache.Models`.
        workers: processes that share the machine.
        batch_tokens: of a padded batch at first; by default what the device is likely to take.
    """

    def __init__(
        self,
        store: Store,
        device: str = "cpu",
        workers: int = 1,
        trust_remote_code: bool = False,
        formats: Sequence[str] = (),
        dtype: str = "auto",
        batch_tokens: int | None = None,
    ):
        self.store = store
        self.device = device
        self.batch_tokens = batch_tokens or (CPU_BATCH if device == CPU else GPU_BATCH)
        self.threads = max(cores() // workers, 1)
        self.trust_remote_code = trust_remote_code
        self.models = Models(device, dtype, self.threads, trust_remote_code, formats)

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
        weights = self._measure(
            checkpoint,
            {**self._weights(checkpoint), "protocol": {"task": "footprint"}},
            lambda: _footprint(self.models.load(checkpoint, like=baseline)),
        )
        return Scores(checkpoint, weights, **found)

    def compare(
        self, baseline: Checkpoint, candidate: Checkpoint, tasks: Tasks
    ) -> CheckpointComparison:
        """Looks at both sides before either is scored.

        Raises:
            EvalError: they cannot be compared; the reason is that of the first finding.
        """
        if tasks.labels is not None:
            check_names(baseline, tasks.labels)
        used = [data for data in vars(tasks).values() if data is not None]
        origin = {
            **self._weights(candidate),
            "baseline": self._weights(baseline),
            "data": [data.digest for data in used],
            "how": [[data.name, *sorted(map(repr, data.how.items()))] for data in used],
            "protocol": {"task": "compare"},
        }

        def run() -> Mapping[str, np.ndarray]:
            from compression_gates.evals.checkpoints.compare import Sides, compare
            from compression_gates.evals.checkpoints.tokenizer_trial import check_encoding

            for side in (baseline, candidate):
                check_encoding(side, used)
            found = compare(Sides(baseline, candidate, used, self.trust_remote_code))
            for side in (baseline, candidate):
                side.check_unchanged()
            return {"comparison": np.array(found.to_json())}

        found = CheckpointComparison.from_json(
            str(self._measure(candidate, origin, run, seconds=COMPARED)["comparison"])
        )
        if refused := found.of(Severity.REFUSED):
            raise EvalError(refused[0])
        return found

    def compare_use(self, baseline: Checkpoint, candidate: Checkpoint) -> CheckpointComparison:
        """Holds side by side what loading and plain use of both led to. Loads what is not stored,
        so that it costs little beside scoring."""
        from compression_gates.evals.checkpoints import plain_use

        return plain_use.compare(self._plain_use(baseline), self._plain_use(candidate, baseline))

    def _plain_use(self, checkpoint: Checkpoint, baseline: Checkpoint | None = None) -> "PlainUse":
        from compression_gates.evals.checkpoints.plain_use import PlainUse

        def run() -> Mapping[str, np.ndarray]:
            loaded = self.models.load(checkpoint, like=baseline)
            return {"use": np.array(loaded.plain_use.to_json())}

        origin = {**self._weights(checkpoint), "protocol": {"task": "plain use"}}
        return PlainUse.from_json(str(self._measure(checkpoint, origin, run)["use"]))

    def coverage(self, scores: Scores) -> list[Coverage]:
        """What each data set that a model was scored on has touched of it."""
        return [
            self._covered(scores.checkpoint, role, part)
            for role, part in vars(scores).items()
            if isinstance(part, Scored)
        ]

    def _covered(self, checkpoint: Checkpoint, role: str, scored: Scored) -> Coverage:
        data, arrays = scored.data, scored.measurement.arrays

        def run() -> Mapping[str, np.ndarray]:
            from compression_gates.evals.models.loading import load_tokenizer
            from compression_gates.evals.scoring.vocabulary import tokens_of

            return tokens_of(load_tokenizer(checkpoint, self.trust_remote_code), data)

        origin = {
            "model": checkpoint.digest,
            "data": data.digest,
            "protocol": {"task": "vocabulary"},
        }
        found = self._measure(checkpoint, origin, run).arrays
        experts = arrays.get("experts")
        counted = experts is not None and experts.size > 0
        return Coverage(
            baseline=checkpoint.label,
            role=role,
            data=data.name,
            **{name: int(found[name]) for name in ("used", "vocabulary", "longest")},
            context=checkpoint.context,
            window=int(arrays["windowing"][0]) if "windowing" in arrays else None,
            scripts=json.loads(str(found["scripts"])),
            experts=experts.size if counted else None,
            reached=int((experts > 0).sum()) if counted else None,
            has_experts=experts is not None,
        )

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

        origin = self._origin(candidate, data, protocol) | {
            "baseline": self._weights(baseline),
            "limits": sorted(limits),
            "machine": timed_on(self.device),
        }
        return self._measure(candidate, origin, run, alone=True, keep=keep)

    def busy(self, alone: bool = False) -> AbstractContextManager[None]:
        """Holds the device: with other scorers, or ``alone`` to time."""
        name = f"gates-{os.getuid()}-{self.device.replace(':', '-')}.lock"
        return locked(Path(tempfile.gettempdir()) / name, shared=not alone)

    def _text(
        self,
        checkpoint: Checkpoint,
        data: DataSet,
        baseline: Checkpoint | None,
        batch_tokens: int | None = None,
    ) -> Measurement:
        usual = replace(set_by(data, TextProtocol()), batch_tokens=self.batch_tokens)
        protocol = replace(usual, batch_tokens=batch_tokens or self.batch_tokens)
        table = self._table_path(self._origin(baseline or checkpoint, data, protocol))
        origin = self._origin(checkpoint, data, protocol, batch_tokens)
        origin["reference"] = baseline and self._weights(baseline)
        windows = None
        if baseline is not None:
            windows = self._text(baseline, data, None)["windowing"].tolist()

        def run() -> Mapping[str, np.ndarray]:
            from compression_gates.evals.scoring.text import score_text

            if baseline is None:
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
                except DamagedError as error:
                    with self.store.locked(table.name):
                        self.store.discard(table, error)
                    most = WORTH_KEEPING
            elif self.models.fit_together(baseline, checkpoint):
                return against(self.models.load(baseline))
            self._with_table(baseline, data, usual, table, most)
            return against(table if table.exists() else self.models.load(baseline))

        return self._measure(checkpoint, origin, run, data)

    def _with_table(
        self, checkpoint: Checkpoint, data: DataSet, protocol: object, table: Path, most: float
    ) -> Mapping[str, np.ndarray]:
        """Scores a baseline, and keeps its predictions where they take at most ``most`` bytes."""
        from compression_gates.evals.scoring.text import score_text

        with self.store.locked(table.name):  # another candidate may wait for it
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

        origin = self._origin(checkpoint, data, protocol, batch_tokens)
        return self._measure(checkpoint, origin, run, data)

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
        origin = self._origin(checkpoint, data, protocol, batch_tokens)
        origin["reference"] = baseline and self._weights(baseline)

        def run() -> Mapping[str, np.ndarray]:
            from compression_gates.evals.scoring.continuation import continue_prompts

            loaded = self.models.load(checkpoint, like=baseline)
            given = reference and reference.arrays
            return _routed(loaded, lambda: continue_prompts(loaded, data, protocol, given))

        return self._measure(checkpoint, origin, run, data)

    def _measure(
        self,
        checkpoint: Checkpoint,
        origin: Mapping[str, object],
        run: Callable[[], Mapping[str, np.ndarray]],
        data: DataSet | None = None,
        seconds: float | None = None,
        alone: bool = False,
        keep: Callable[[Mapping[str, np.ndarray]], bool] | None = None,
    ) -> Measurement:
        def make() -> Mapping[str, np.ndarray]:
            what = f"{checkpoint.label} could not be measured"
            with self.busy(alone), guarded(what, seconds):
                arrays = run()
            self.models.check_unchanged()  # pages of weights may be read when they are first used
            return arrays

        items = None if data is None else len(data.items)
        origin = self._complete(origin)
        return self.store.measurement(
            origin, make, keep, lambda arrays: check(arrays, origin, items)
        )

    def _origin(
        self,
        checkpoint: Checkpoint,
        data: DataSet,
        protocol: Protocol,
        batch_tokens: int | None = None,
    ) -> dict[str, object]:
        """What a score is of. ``batch_tokens`` tells a measurement in batches of another size
        apart, where that is its purpose."""
        batches = {} if batch_tokens is None else {"batch_tokens": batch_tokens}
        described = {"data": data.digest, "protocol": protocol.describe()}
        return {**self._weights(checkpoint), **described, **batches}

    def _weights(self, checkpoint: Checkpoint) -> dict[str, object]:
        """A model in a measurement's key: its files, and what turns them into weights."""
        return {
            "model": checkpoint.digest,
            "packages": packages_of(checkpoint) | unpacked_by(checkpoint, self.models.formats),
        }

    def _complete(self, origin: Mapping[str, object]) -> dict[str, object]:
        return {**origin, "environment": self.environment(), "code": code_version()}

    def environment(self) -> dict[str, object]:
        """What a number depends on beside the model, the data and the protocol."""
        found: dict[str, object] = {name: version_of(name) for name in PACKAGES}
        if self.trust_remote_code:
            found["remote code"] = True
        if self.models.dtype != "auto":
            found["dtype"] = self.models.dtype
        return found | device_facts(self.device)

    def _table_path(self, origin: Mapping[str, object]) -> Path:
        return self.store.beside(self._complete(origin), "log-probabilities.npy")


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
