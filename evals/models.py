"""Loaded models: as many as memory holds, the ones that were used last."""

import copy
import gc
from collections import OrderedDict
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from evals.checkpoint import PLAIN, Checkpoint
from evals.device import AUTO, CPU

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evals.scoring.loading import Loaded

KEPT = 2
"""Models that stay in memory: a baseline and its candidate."""
HEADROOM = 1.2
"""Of a model's weights, for what it computes."""
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


class Models:
    """Loads models onto a device, and lets go of them when another needs the room.

    Args:
        device: ``cpu``, ``cuda:N`` or ``auto``.
        dtype: of the weights in memory; ``auto`` takes what a checkpoint names.
        threads: of a forward pass on the CPU.
        trust_remote_code: whether code that a checkpoint brings may run.
        formats: modules that teach transformers a checkpoint format when they are imported.
    """

    def __init__(
        self, device: str, dtype: str, threads: int, trust_remote_code: bool, formats: Sequence[str]
    ):
        self.device, self.dtype, self.threads = device, dtype, threads
        self.trust_remote_code, self.formats = trust_remote_code, tuple(formats)
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._largest = 0

    def load(self, checkpoint: Checkpoint) -> "Loaded":
        """The model of a checkpoint, from memory if it was used lately."""
        import torch

        from evals.scoring.loading import load

        for module in self.formats:
            import_module(module)
        torch.set_num_threads(self.threads)
        if checkpoint.digest not in self._loaded:
            needed = self._needed(checkpoint)
            while self._loaded and (len(self._loaded) >= KEPT or needed > self._free()):
                self._forget()
            loaded = load(checkpoint, self.device, self.dtype, self.trust_remote_code)
            self._loaded[checkpoint.digest] = loaded
            self._largest = max(self._largest, loaded.model.get_memory_footprint())
        self._loaded.move_to_end(checkpoint.digest)
        return self._loaded[checkpoint.digest]

    def fit_together(self, one: Checkpoint, two: Checkpoint) -> bool:
        """Whether two models can be in memory at the same time."""
        others = [key for key in self._loaded if key not in (one.digest, two.digest)]
        missing = [c for c in (one, two) if c.digest not in self._loaded]
        if sum(map(self._needed, missing)) <= self._free():
            return True
        for key in others:
            self._forget(key)
        return sum(map(self._needed, missing)) <= self._free()

    def to_change(self, checkpoint: Checkpoint) -> "PreTrainedModel":
        """A model that the caller may change: a copy, or where two do not fit, the only one."""
        loaded = self.load(checkpoint)
        if self._needed(checkpoint) <= self._free():
            return copy.deepcopy(loaded.model)
        return self._loaded.pop(checkpoint.digest).model

    def _forget(self, key: str | None = None) -> None:
        import torch

        if key is None:
            self._loaded.popitem(last=False)
        else:
            del self._loaded[key]
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _needed(self, checkpoint: Checkpoint) -> float:
        """Bytes that a model takes; a compressed one may be unpacked to what others take."""
        stored = _BYTES.get(checkpoint.dtype)
        factor = _BYTES[self.dtype] / stored if stored and self.dtype in _BYTES else 1.0
        own = checkpoint.weight_bytes * factor
        return HEADROOM * (own if checkpoint.form == PLAIN else max(own, self._largest))

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
