"""Make measurements and keep them in the store.

Each is made under a guard and the locks of the device, and its key covers everything that can
change its value.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.formats import CustomFormat
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.guard import guarded
from compression_gates.evals.models.cache import Models
from compression_gates.evals.models.device import CPU, cores, device_facts, lock_names
from compression_gates.evals.scoring.protocols import Protocol
from compression_gates.evals.store.array_schemas import check
from compression_gates.evals.store.locks import locked
from compression_gates.evals.store.measurement import Measurement
from compression_gates.evals.store.provenance import (
    PACKAGES,
    code_version,
    packages_of,
    unpacked_by,
    version_of,
)
from compression_gates.evals.store.store import Store

if TYPE_CHECKING:
    from compression_gates.evals.noise import Variant

CPU_BATCH, GPU_BATCH = 4096, 16384
"""Initial number of tokens per batch; batches that do not fit into memory are halved."""


class Measurer:
    """Measures models on one device.

    Args:
        store: where measurements are kept.
        device, dtype, trust_remote_code, formats: as for :class:`evals.models.cache.Models`.
        workers: number of processes that share the machine.
        batch_tokens: initial number of tokens per padded batch; the default depends on the device.

    Attributes:
        quality_engine: the engine on which models are scored; if it is empty, they are scored as
            transformers loads them, with unpacked weights.
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
        self.quality_engine = ""
        self.device = device
        self.batch_tokens = batch_tokens or (CPU_BATCH if device == CPU else GPU_BATCH)
        self.threads = max(cores() // workers, 1)
        self.trust_remote_code = trust_remote_code
        self.models = Models(device, dtype, self.threads, trust_remote_code, formats)

    @contextmanager
    def busy(self, alone: bool = False) -> Iterator[None]:
        """Hold the locks of the device, shared with other scorers, or exclusively if ``alone``."""
        with ExitStack() as stack:
            for name in lock_names(self.device):  # always in the same order, against deadlocks
                path = Path(tempfile.gettempdir()) / f"gates-{os.getuid()}-{name}.lock"
                stack.enter_context(locked(path, shared=not alone))
            yield

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
        """Return the measurement of ``origin``; make and store it if it is not in the store.

        Args:
            checkpoint: the measured checkpoint, for error messages.
            origin: what determines the measurement, except the environment and the code.
            run: returns the arrays.
            data: the data set whose items the arrays describe.
            seconds: time limit.
            alone: hold the device exclusively.
            keep: as for :meth:`evals.store.store.Store.measurement`.

        Raises:
            EvalError: ``run`` failed, or the files of a model changed while it was used.
        """

        def make() -> Mapping[str, np.ndarray]:
            with self.busy(alone), guarded(f"{checkpoint.label} could not be measured", seconds):
                arrays = run()
            # Weights are mapped into memory, so a page may be read only when it is first used.
            self.models.check_unchanged()
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
        variant: "Variant | None" = None,
    ) -> dict[str, object]:
        """Return the origin of a score: model, data, protocol, and how the model is computed where
        the effect of that is measured."""
        scored = {"data": data.digest, "protocol": protocol.describe()}
        return {**self.model_origin(checkpoint), **scored, **(variant.origin() if variant else {})}

    def model_origin(self, checkpoint: Checkpoint) -> dict[str, object]:
        """Return a model's part of an origin: its files, the code that unpacks its weights, and the
        engine if quality is scored on one."""
        engine = {"engine": self.quality_engine} if self.quality_engine else {}
        return {
            "model": checkpoint.digest,
            "packages": packages_of(checkpoint) | unpacked_by(checkpoint, self.models.formats),
            **engine,
        }

    def complete_origin(self, origin: Mapping[str, object]) -> dict[str, object]:
        """Return ``origin`` with the environment and the code, which all measurements depend on."""
        return {**origin, "environment": self.environment(), "code": code_version()}

    def environment(self) -> dict[str, object]:
        """Return the environment that scores depend on: packages, dtype and device."""
        environment: dict[str, object] = {name: version_of(name) for name in PACKAGES}
        if self.trust_remote_code:
            environment["remote code"] = True
        if self.models.dtype != "auto":
            environment["dtype"] = self.models.dtype
        return environment | device_facts(self.device)
