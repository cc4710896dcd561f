"""Loaded models: as many as memory holds, the ones that were used last."""

import copy
import gc
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, PLAIN, SEQ2SEQ, Checkpoint
from compression_gates.evals.checkpoints.formats import CustomFormat
from compression_gates.evals.models.device import AUTO, CPU

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compression_gates.evals.models.loading import Loaded

KEPT = 2
"""Models that stay in memory: a baseline and its candidate."""
HEADROOM = 1.2
"""Of a model's weights, for what it computes."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Of the weights in memory; ``auto`` takes what a checkpoint names."""
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@contextmanager
def threads_restored() -> Iterator[None]:
    """Restores torch's number of threads, which loading a model sets, on exit."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Models:
    """Loads models onto a device, and lets go of them when another needs the room.

    Args:
        device: ``cpu``, ``cuda:N`` or ``auto``.
        dtype: one of :data:`DTYPES`.
        threads: of a forward pass on the CPU.
        trust_remote_code: whether code that a checkpoint brings may run.
        formats: checkpoint formats to register with transformers.
    """

    def __init__(
        self,
        device: str,
        dtype: str,
        threads: int,
        trust_remote_code: bool,
        formats: Sequence[CustomFormat] = (),
    ):
        self.device, self.dtype, self.threads = device, dtype, threads
        self.trust_remote_code, self.formats = trust_remote_code, tuple(formats)
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._used: dict[str, Checkpoint] = {}

    def load(self, checkpoint: Checkpoint, like: Checkpoint | None = None) -> "Loaded":
        """The model of a checkpoint, from memory if it was used lately.

        Once unpacked, a compressed one takes about as much as the baseline that it is ``like``.
        """
        import torch

        from compression_gates.evals.models.loading import load

        for custom in self.formats:
            custom.register()
        torch.set_num_threads(self.threads)
        if checkpoint.digest not in self._loaded:
            needed = self._needed(checkpoint, like)
            while self._loaded and (len(self._loaded) >= KEPT or needed > self._free()):
                self._forget()
            checkpoint.check_unchanged()
            loaded = load(checkpoint, self.device, self.dtype, self.trust_remote_code)
            # Any change of a file's metadata is an error here: the loaded bytes may match neither
            # version.
            checkpoint.check_unchanged(by_content=False)
            self._loaded[checkpoint.digest] = loaded
        self._used[checkpoint.digest] = checkpoint
        self._loaded.move_to_end(checkpoint.digest)
        return self._loaded[checkpoint.digest]

    def check_unchanged(self) -> None:
        """Raises an EvalError where the files of a model that was used since the last call are no
        longer those that its digest is of."""
        used, self._used = self._used, {}
        for checkpoint in used.values():
            checkpoint.check_unchanged()

    def fit_together(self, baseline: Checkpoint, candidate: Checkpoint) -> bool:
        """Whether a baseline and its candidate can be in memory at the same time."""
        pair = (baseline, candidate)
        missing = [side for side in pair if side.digest not in self._loaded]
        needed = sum(self._needed(side, baseline) for side in missing)
        others = [key for key in self._loaded if key not in [side.digest for side in pair]]
        while others and (needed > self._free() or len(self._loaded) + len(missing) > KEPT):
            self._forget(others.pop(0))
        return needed <= self._free()

    def to_change(self, checkpoint: Checkpoint) -> "PreTrainedModel":
        """A model that the caller may change: a copy, or where two do not fit, the only one.

        Its settings of padding and generation, which scoring replaces, are those of the checkpoint.
        """
        from compression_gates.evals.models.configurations import (
            load_config,
            load_generation_config,
        )

        loaded = self.load(checkpoint)
        if self._needed(checkpoint, None) <= self._free():
            model = copy.deepcopy(loaded.model)
        else:
            model = self._loaded.pop(checkpoint.digest).model
        own = load_config(checkpoint, self.trust_remote_code)
        for mine, given in (
            (model.config, own),
            (model.config.get_text_config(), own.get_text_config()),
        ):
            mine.pad_token_id = getattr(given, "pad_token_id", None)
        if checkpoint.kind in (CAUSAL, SEQ2SEQ):
            model.generation_config = load_generation_config(checkpoint, self.trust_remote_code)
        return model

    def _forget(self, key: str | None = None) -> None:
        import torch

        key = next(iter(self._loaded)) if key is None else key
        model = weakref.ref(self._loaded.pop(key).model)
        if model() is not None:
            # A reference cycle holds it. Collecting takes a third of a second, and most models
            # are in no cycle.
            gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _needed(self, checkpoint: Checkpoint, like: Checkpoint | None) -> float:
        """Bytes that a model takes, and room to compute with it."""
        sides = [checkpoint, *([like] if like and checkpoint.form != PLAIN else [])]
        return HEADROOM * max(side.weight_bytes * self._factor(side) for side in sides)

    def _factor(self, checkpoint: Checkpoint) -> float:
        """By how much the dtype in memory is wider than that on disk."""
        stored, wanted = _BYTES.get(checkpoint.dtype), _BYTES.get(self.dtype)
        return wanted / stored if stored and wanted else 1.0

    def _free(self) -> float:
        """Bytes that are free where models go."""
        import psutil
        import torch

        memory = psutil.virtual_memory().available
        if self.device == CPU:
            return memory
        gpus = range(torch.cuda.device_count()) if self.device == AUTO else [self.device]
        free = sum(
            torch.cuda.mem_get_info(gpu)[0]
            + torch.cuda.memory_reserved(gpu)
            - torch.cuda.memory_allocated(gpu)
            for gpu in gpus
        )
        return free + memory if self.device == AUTO else free
