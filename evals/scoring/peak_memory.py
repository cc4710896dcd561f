"""Peak memory of a forward pass."""

import weakref
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compression_gates.evals.models.engine import Running, stored_tensors, weight_bytes


@torch.inference_mode()
def peak_bytes(running: Running, ids: Tensor) -> int:
    """Return the bytes of a model's weights plus those of activations at their peak.

    On a GPU, activations are what the allocator hands out during the pass. On the CPU they are the
    tensors that operators return, from their creation until they are freed, in an eager pass: this
    is the same in every run, unlike the resident memory of the process, but memory that an operator
    uses internally is not counted.

    Args:
        running: the model as an engine runs it.
        ids: tokens ``(rows, tokens)``.
    """
    if running.loaded.device.type == "cuda":
        device = running.loaded.device
        running.loaded.model(**running.loaded.inputs(ids))  # compiles, and allocates workspaces
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        running.loaded.model(**running.loaded.inputs(ids))
        torch.cuda.synchronize(device)
        activations = torch.cuda.max_memory_allocated(device) - before
    else:
        with LiveTensors(stored_tensors(running.eager.model)) as live:
            running.eager.model(**running.eager.inputs(ids))
        activations = live.peak
    return weight_bytes(running.eager.model) + activations


class LiveTensors(TorchDispatchMode):
    """Adds up the bytes of the storages that operators return, as long as they are in use.

    Args:
        known: tensors whose storages are not counted.

    Attributes:
        peak: the largest sum so far.
    """

    def __init__(self, known: Sequence[Tensor]):
        super().__init__()
        self.current = self.peak = 0
        self._seen = weakref.WeakSet(t.untyped_storage() for t in known)

    def __torch_dispatch__(
        self,
        operator: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.current -= size
