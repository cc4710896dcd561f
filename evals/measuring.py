"""Makes measurements through the store: guarded, under the lock of the device, and under a key of
everything that can change them."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.formats import CustomFormat
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.guard import guarded
from compression_gates.evals.models.cache import Models
from compression_gates.evals.models.device import CPU, cores, device_facts
from compression_gates.evals.scoring.protocols import Protocol
from compression_gates.evals.store.locks import locked
from compression_gates.evals.store.measurement import Measurement
from compression_gates.evals.store.provenance import (
    PACKAGES,
    code_version,
    packages_of,
    unpacked_by,
    version_of,
)
from compression_gates.evals.store.schema import check
from compression_gates.evals.store.store import Store

CPU_BATCH, GPU_BATCH = 4096, 16384
"""Tokens of a batch at first; where they do not fit, batches are halved."""


class Measurer:
    """Measures models on one device.

    Args:
        store: where measurements are kept.
        device, dtype, trust_remote_code, formats: as for :class:`evals.models.cache.Models`.
        workers: processes that share the machine.
        batch_tokens: of a padded batch at first; by default what the device is likely to take.
    """

    def __init__(
        self,
        store: Store,
        device: str = CPU,
        workers: int = 1,
        trust_remote_code: bool = False,
        formats: Sequence[CustomFormat] = (),
        dtype: str = "auto",
        batch_tokens: int | None = None,
    ):
        self.store = store
        self.device = device
        self.batch_tokens = batch_tokens or (CPU_BATCH if device == CPU else GPU_BATCH)
        self.threads = max(cores() // workers, 1)
        self.trust_remote_code = trust_remote_code
        self.models = Models(device, dtype, self.threads, trust_remote_code, formats)

    def busy(self, alone: bool = False) -> AbstractContextManager[None]:
        """Holds the device: with other scorers, or ``alone`` to time."""
        name = f"gates-{os.getuid()}-{self.device.replace(':', '-')}.lock"
        return locked(Path(tempfile.gettempdir()) / name, shared=not alone)

    def measure(
        self,
        checkpoint: Checkpoint,
        origin: Mapping[str, object],
        run: Callable[[], Mapping[str, np.ndarray]],
        data: DataSet | None = None,
        seconds: float | None = None,
        alone: bool = False,
        keep: Callable[[Mapping[str, np.ndarray]], bool] | None = None,
    ) -> Measurement:
        """What the store holds of ``origin``, or what ``run`` gives.

        Args:
            checkpoint: what is measured, for the line that says what goes wrong.
            origin: what the measurement follows from, beside the environment and the code.
            run: measures.
            data: whose items the arrays are of.
            seconds: time limit.
            alone: whether the device is held alone.
            keep: as for :meth:`evals.store.store.Store.measurement`.
        """

        def make() -> Mapping[str, np.ndarray]:
            what = f"{checkpoint.label} could not be measured"
            with self.busy(alone), guarded(what, seconds):
                arrays = run()
            self.models.check_unchanged()  # pages of weights may be read when they are first used
            return arrays

        items = None if data is None else len(data.items)
        origin = self.complete_origin(origin)
        return self.store.measurement(
            origin, make, keep, lambda arrays: check(arrays, origin, items)
        )

    def origin(
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
        return {**self.model_origin(checkpoint), **described, **batches}

    def model_origin(self, checkpoint: Checkpoint) -> dict[str, object]:
        """A model in a measurement's key: its files, and what turns them into weights."""
        return {
            "model": checkpoint.digest,
            "packages": packages_of(checkpoint) | unpacked_by(checkpoint, self.models.formats),
        }

    def complete_origin(self, origin: Mapping[str, object]) -> dict[str, object]:
        """``origin`` with what every measurement follows from."""
        return {**origin, "environment": self.environment(), "code": code_version()}

    def environment(self) -> dict[str, object]:
        """What a number depends on beside the model, the data and the protocol."""
        found: dict[str, object] = {name: version_of(name) for name in PACKAGES}
        if self.trust_remote_code:
            found["remote code"] = True
        if self.models.dtype != "auto":
            found["dtype"] = self.models.dtype
        return found | device_facts(self.device)
