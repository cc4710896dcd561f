"""Keep outputs of blocks on their device, in host memory, or in temporary files."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from compression_gates.compression.calibration.resources import SHARE, free_memory

Key = tuple[int, str]


@dataclass(frozen=True)
class _Kept:
    """A tensor that is kept elsewhere.

    Attributes:
        load: returns the tensor on its device.
        forget: releases it.
    """

    load: Callable[[], Tensor]
    forget: Callable[[], None]


class KeptOutputs:
    """Outputs of blocks by key, bit for bit.

    Tensors remain on their device while ``memory`` suffices. Those on a GPU are then kept in pinned
    host memory, up to half of what is free there, and all others in files of a temporary directory,
    which is removed on exit.

    Args:
        memory: bytes to use on the device.
    """

    def __init__(self, memory: int):
        self._free = {"device": memory, "host": None}
        self._outputs: dict[Key, object] = {}
        self._directory: tempfile.TemporaryDirectory | None = None
        self._files = 0

    def __enter__(self) -> "KeptOutputs":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outputs.clear()
        if self._directory is not None:
            self._directory.cleanup()

    def put(self, key: Key, output: object) -> None:
        """Keep an output in place of the one of that key."""
        tree_map_only(_Kept, lambda kept: kept.forget(), self._outputs.pop(key, None))
        self._outputs[key] = tree_map_only(Tensor, self._keep, output)

    def get(self, key: Key) -> object:
        """Return the output of a key, with its tensors on their device."""
        return tree_map_only(_Kept, lambda kept: kept.load(), self._outputs[key])

    def _keep(self, tensor: Tensor) -> _Kept:
        if self._reserve("device", tensor):
            return self._kept_in("device", tensor, lambda: tensor)
        device = tensor.device
        if device.type == "cuda" and self._reserve("host", tensor):
            copy = torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)
            return self._kept_in("host", copy, lambda: copy.to(device, non_blocking=True))
        return self._kept_on_disk(tensor.cpu(), device)

    def _reserve(self, place: str, tensor: Tensor) -> bool:
        if self._free[place] is None:
            self._free[place] = int(SHARE * free_memory(torch.device("cpu")))
        fits = tensor.nbytes <= self._free[place]
        self._free[place] -= tensor.nbytes * fits
        return fits

    def _kept_in(self, place: str, tensor: Tensor, load: Callable[[], Tensor]) -> _Kept:
        def forget() -> None:
            self._free[place] += tensor.nbytes

        return _Kept(load, forget)

    def _kept_on_disk(self, tensor: Tensor, device: torch.device) -> _Kept:
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="compression-gates-")
        file = Path(self._directory.name, str(self._files))
        self._files += 1
        torch.save(tensor.clone(memory_format=torch.preserve_format), file)
        return _Kept(lambda: torch.load(file, map_location=device, weights_only=True), file.unlink)
