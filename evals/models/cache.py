"""A cache of loaded models: the most recently used ones, as far as they fit into memory."""

import copy
import gc
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, PLAIN, SEQ2SEQ, Checkpoint
from compression_gates.evals.checkpoints.formats import CustomFormat
from compression_gates.evals.models.device import AUTO, CPU

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compression_gates.evals.models.loading import Loaded

KEPT = 2
"""Maximum number of models in memory: a baseline and its candidate."""
HEADROOM = 1.2
"""Memory of a model relative to its weights; the excess is for activations."""
AUTO_DTYPE = "auto"
DTYPES = (AUTO_DTYPE, "float32", "bfloat16", "float16")
"""Dtypes of weights in memory; ``auto`` is the dtype that the checkpoint names."""
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Computed:
    """How a model is computed, where that differs from the usual.

    Attributes:
        dtype: of the weights in memory.
        attention: the attention implementation.
    """

    dtype: str = ""
    attention: str = ""


AS_USUAL = Computed()
_Key = tuple[str, Computed]
"""The digest of a checkpoint, and how its model is computed."""


class Models:
    """Loads models onto a device, and releases the least recently used one to make room.

    Args:
        device: ``cpu``, ``cuda:N`` or ``auto``.
        dtype: one of :data:`DTYPES`.
        threads: number of threads of a forward pass on the CPU.
        trust_remote_code: whether code in a checkpoint may run.
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
        self._loaded: OrderedDict[_Key, Loaded] = OrderedDict()
        self._used: dict[str, Checkpoint] = {}

    def load(
        self,
        checkpoint: Checkpoint,
        like: Checkpoint | None = None,
        computed: Computed = AS_USUAL,
    ) -> "Loaded":
        """Return the model of a checkpoint, from the cache if it is there.

        Sets torch's number of threads.

        Args:
            checkpoint: the checkpoint to load.
            like: its baseline, if it is a candidate. A candidate whose weights are unpacked on
                loading takes about as much memory as its baseline.
            computed: how the model is computed. The same model computed in two ways counts as two.
        """
        import torch

        from compression_gates.evals.models.loading import load

        for custom_format in self.formats:
            custom_format.register()
        torch.set_num_threads(self.threads)
        key = checkpoint.digest, computed
        if key not in self._loaded:
            needed = self._needed(checkpoint, like, computed)
            while self._loaded and (len(self._loaded) >= KEPT or needed > self._free()):
                self._forget()
            checkpoint.check_unchanged()
            dtype = computed.dtype or self.dtype
            loaded = load(checkpoint, self.device, dtype, self.trust_remote_code)
            if computed.attention:
                loaded.model.set_attn_implementation(computed.attention)
            # A change of metadata alone is an error here too: the bytes that were loaded may be
            # neither the old nor the new content.
            checkpoint.check_unchanged(by_content=False)
            self._loaded[key] = loaded
        self._used[checkpoint.digest] = checkpoint
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def check_unchanged(self) -> None:
        """Check the models that were used since the last call.

        Raises:
            EvalError: the files of a model have changed since its digest was computed.
        """
        used, self._used = self._used, {}
        for checkpoint in used.values():
            checkpoint.check_unchanged()

    def fit_together(
        self, baseline: Checkpoint, candidate: Checkpoint, computed: Computed = AS_USUAL
    ) -> bool:
        """Return whether a baseline and its candidate fit into memory at the same time.

        Releases other models if that makes room.

        Args:
            baseline, candidate: the checkpoints.
            computed: how the candidate is computed.
        """
        pair = {(baseline.digest, AS_USUAL): baseline, (candidate.digest, computed): candidate}
        missing = [key for key in pair if key not in self._loaded]
        needed = sum(self._needed(pair[key], baseline, key[1]) for key in missing)
        others = [key for key in self._loaded if key not in pair]
        while others and (needed > self._free() or len(self._loaded) + len(missing) > KEPT):
            self._forget(others.pop(0))
        return needed <= self._free()

    def to_change(self, checkpoint: Checkpoint) -> "PreTrainedModel":
        """Return a model that the caller may modify.

        It is a copy if memory suffices; otherwise the model is removed from the cache. Its padding
        token and generation settings, which loading for scoring replaces, are the checkpoint's.
        """
        from compression_gates.evals.models.configurations import (
            load_config,
            load_generation_config,
        )

        loaded = self.load(checkpoint)
        if self._needed(checkpoint, None) <= self._free():
            model = copy.deepcopy(loaded.model)
        else:
            model = self._loaded.pop((checkpoint.digest, AS_USUAL)).model
        original = load_config(checkpoint, self.trust_remote_code)
        for config, stored in (
            (model.config, original),
            (model.config.get_text_config(), original.get_text_config()),
        ):
            config.pad_token_id = getattr(stored, "pad_token_id", None)
        if checkpoint.kind in (CAUSAL, SEQ2SEQ):
            model.generation_config = load_generation_config(checkpoint, self.trust_remote_code)
        return model

    def _forget(self, key: _Key | None = None) -> None:
        import torch

        key = next(iter(self._loaded)) if key is None else key
        model = weakref.ref(self._loaded.pop(key).model)
        if model() is not None:
            # Collecting reference cycles takes a third of a second, and most models are in none.
            gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _needed(
        self, checkpoint: Checkpoint, like: Checkpoint | None, computed: Computed = AS_USUAL
    ) -> float:
        """Return the bytes that a model and its activations take."""
        needed = 0.0
        for side in [checkpoint, like] if like and checkpoint.form != PLAIN else [checkpoint]:
            stored, wanted = _BYTES.get(side.dtype), _BYTES.get(computed.dtype or self.dtype)
            factor = wanted / stored if stored and wanted else 1.0
            needed = max(needed, HEADROOM * factor * side.weight_bytes)
        return needed

    def _free(self) -> float:
        """Return the free bytes on the device."""
        import psutil

        memory = psutil.virtual_memory().available
        if self.device == CPU:
            return memory
        import torch  # takes seconds, which a run on stored measurements would wait for

        gpus = range(torch.cuda.device_count()) if self.device == AUTO else [self.device]
        free = sum(
            torch.cuda.mem_get_info(gpu)[0]
            + torch.cuda.memory_reserved(gpu)
            - torch.cuda.memory_allocated(gpu)
            for gpu in gpus
        )
        return free + memory if self.device == AUTO else free
