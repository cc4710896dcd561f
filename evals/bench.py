"""Measures checkpoints through the store: each (model, data set) is scored once.

A model is loaded only when something about it is not stored yet, and stays loaded while it is
asked about. Scoring holds the device together with other workers; timing holds it alone.
"""

import os
import platform
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evals.checkpoint import CAUSAL, Checkpoint
from evals.data import DataSet
from evals.errors import EvalError
from evals.locks import locked
from evals.measurement import Measurement, key_of
from evals.reading import Scored
from evals.store import Store

if TYPE_CHECKING:
    from evals.scoring.loading import Loaded

NOISE_BATCH = 1000
"""Tokens of a batch where a baseline is held against itself."""
KEPT_LOADED = 2
"""Models that stay in memory: a baseline and its candidate."""


@dataclass(frozen=True)
class Tasks:
    """The data sets that a model is scored on, by role; None where a role has none.

    Attributes:
        text: to predict token by token, or to classify without labels.
        answers: questions with short answers.
        summaries: passages to summarise.
        labels: texts with their classes.
    """

    text: DataSet | None = None
    answers: DataSet | None = None
    summaries: DataSet | None = None
    labels: DataSet | None = None

    @property
    def any(self) -> DataSet:
        for data in (self.text, self.labels, self.answers, self.summaries):
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

    @property
    def predicted(self) -> Scored | None:
        """Where predictions are compared, right or wrong: next tokens or classes."""
        return self.labels or self.text

    @property
    def weight_bytes(self) -> int:
        return self.checkpoint.weight_bytes

    @property
    def footprint(self) -> dict[str, float]:
        """Parameters, zeros and N:M truth of the weights."""
        return {name: float(count) for name, count in self.weights.arrays.items()}


class Bench:
    """Scores and times models on one device.

    ``formats`` are modules that teach transformers a checkpoint format when they are imported.
    """

    def __init__(
        self,
        store: Store,
        device: str = "cpu",
        workers: int = 1,
        trust_remote_code: bool = False,
        formats: Sequence[str] = (),
    ):
        self.store = store
        self.device = device
        self.threads = max(_cores() // workers, 1)
        self.trust_remote_code = trust_remote_code
        self.formats = tuple(formats)
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()

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
            {"model": checkpoint.digest, "protocol": {"task": "footprint"}},
            lambda: _footprint(self.load(checkpoint)),
        )
        return Scores(checkpoint, weights, **found)

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
            again = self._role(role, baseline, data, baseline, NOISE_BATCH)
            # Their protocols tell them apart on purpose, and they are compared all the same.
            origin = getattr(before, role).measurement.origin
            found[role] = Scored(data, replace(again, origin=origin))
        return before, Scores(baseline, before.weights, **found)

    def _role(
        self,
        role: str,
        checkpoint: Checkpoint,
        data: DataSet,
        baseline: Checkpoint | None,
        batch_tokens: int | None = None,
    ) -> Measurement:
        if role == "text" and checkpoint.kind == CAUSAL:
            return self._text(checkpoint, data, baseline, batch_tokens)
        return self._other(checkpoint, data, batch_tokens)

    def race(self, baseline: Checkpoint, candidate: Checkpoint, data: DataSet) -> Measurement:
        """Times baseline against candidate, alone on the device."""
        from evals.scoring.protocols import SpeedProtocol

        protocol = SpeedProtocol()

        def run() -> Mapping[str, np.ndarray]:
            from evals.scoring.speed import time_pairs

            return time_pairs(self.load(baseline), self.load(candidate), data, protocol)

        origin = {
            "model": candidate.digest,
            "baseline": baseline.digest,
            "data": data.digest,
            "protocol": protocol.describe(),
            "machine": platform.node(),
        }
        return self._measure(origin, run, alone=True)

    def busy(self, alone: bool = False) -> AbstractContextManager[None]:
        """Holds the device: with other scorers, or ``alone`` to time."""
        name = f"gates-{os.getuid()}-{self.device.replace(':', '-')}.lock"
        return locked(Path(tempfile.gettempdir()) / name, shared=not alone)

    def load(self, checkpoint: Checkpoint) -> "Loaded":
        """The model of a checkpoint, from memory if it was used lately."""
        import torch

        from evals.scoring.loading import load

        for module in self.formats:
            import_module(module)
        torch.set_num_threads(self.threads)
        if checkpoint.digest not in self._loaded:
            loaded = load(checkpoint, self.device, self.trust_remote_code)
            self._loaded[checkpoint.digest] = loaded
        self._loaded.move_to_end(checkpoint.digest)
        while len(self._loaded) > KEPT_LOADED:
            self._loaded.popitem(last=False)
        return self._loaded[checkpoint.digest]

    def _text(
        self,
        checkpoint: Checkpoint,
        data: DataSet,
        baseline: Checkpoint | None,
        batch_tokens: int | None = None,
    ) -> Measurement:
        from evals.scoring.protocols import TextProtocol

        usual = TextProtocol()
        protocol = replace(usual, batch_tokens=batch_tokens or usual.batch_tokens)
        origin = {
            "model": checkpoint.digest,
            "data": data.digest,
            "protocol": protocol.describe(),
            "reference": baseline and baseline.digest,
        }
        reference = None
        if baseline is None:
            keep = self._reference_path(origin)
        else:
            keep = None
            reference = self._reference_path(
                {
                    **origin,
                    "model": baseline.digest,
                    "protocol": usual.describe(),
                    "reference": None,
                }
            )
            self._text(baseline, data, None)

        def run() -> Mapping[str, np.ndarray]:
            from evals.scoring.text import score_text

            if keep is None:
                return score_text(self.load(checkpoint), data, protocol, reference=reference)
            partial = keep.with_name(keep.name + ".partial")
            try:
                arrays = score_text(self.load(checkpoint), data, protocol, keep=partial)
                partial.replace(keep)
            finally:
                partial.unlink(missing_ok=True)
            return arrays

        return self._measure(origin, run, beside=keep)

    def _other(
        self, checkpoint: Checkpoint, data: DataSet, batch_tokens: int | None = None
    ) -> Measurement:
        from evals.scoring.protocols import ClassProtocol, GenerationProtocol

        generates = checkpoint.kind == CAUSAL
        protocol = GenerationProtocol() if generates else ClassProtocol()
        protocol = replace(protocol, batch_tokens=batch_tokens or protocol.batch_tokens)

        def run() -> Mapping[str, np.ndarray]:
            if generates:
                from evals.scoring.generation import generate as score
            else:
                from evals.scoring.classes import classify as score
            return score(self.load(checkpoint), data, protocol)

        origin = {
            "model": checkpoint.digest,
            "data": data.digest,
            "protocol": protocol.describe(),
        }
        return self._measure(origin, run)

    def _measure(
        self,
        origin: Mapping[str, object],
        run: Callable[[], Mapping[str, np.ndarray]],
        alone: bool = False,
        beside: Path | None = None,
    ) -> Measurement:
        def make() -> Mapping[str, np.ndarray]:
            with self.busy(alone):
                return run()

        return self.store.measurement(self._complete(origin), make, beside)

    def _complete(self, origin: Mapping[str, object]) -> dict[str, object]:
        return {**origin, "environment": self.environment(), "code": code_version()}

    def environment(self) -> dict[str, object]:
        """What a number depends on beside the model, the data and the protocol."""
        packages = ("torch", "transformers", "tokenizers", "compressed-tensors")
        found: dict[str, object] = {name: _version(name) for name in packages}
        if self.trust_remote_code:
            found["remote code"] = True
        if self.device == "cpu":
            found |= {"device": platform.machine(), "threads": self.threads}
        else:
            import torch

            found["device"] = torch.cuda.get_device_name(self.device)
        return found

    def _reference_path(self, origin: Mapping[str, object]) -> Path:
        return self.store.beside(self._complete(origin), "log-probabilities.npy")


_version = cache(version)  # reading it from disk takes a millisecond each time


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@cache
def code_version() -> str:
    """Hash of the source that measurements depend on, so that none outlives its code."""
    room = Path(__file__).parent
    files = [*sorted((room / "scoring").glob("*.py")), room / "metrics" / "divergence.py"]
    return key_of({file.name: file.read_text() for file in files})


def _footprint(loaded: "Loaded") -> Mapping[str, np.ndarray]:
    from evals.scoring.footprint import footprint

    return footprint(loaded)
