"""The memory and the device that calibration may use.

Steps and methods do not pass them on. They hold for a ``with`` block, like PyTorch's grad mode.
This module does not import torch, so that options are read before a model is loaded.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compression_gates.compression.errors import CompressionError

if TYPE_CHECKING:
    import torch

SHARE = 0.5
"""Share of the free memory that is used by default; the methods need memory as well."""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}  # fmt: skip
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Resources:
    """What calibration may use.

    Attributes:
        memory: bytes for activations on the device that runs the model; None for half of what is
            free when calibration starts.
        device: device to run blocks on, one after the other, if the weights stay in host memory;
            None to run the model where it is.
    """

    memory: int | None = None
    device: str | None = None


_current: ContextVar[Resources | None] = ContextVar("resources", default=None)


@contextmanager
def using(resources: Resources) -> Iterator[None]:
    """Use ``resources`` in all calibrations until exit."""
    token = _current.set(resources)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Resources:
    """Return the resources in use."""
    return _current.get() or Resources()


def in_host_memory(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return a result of a method, in host memory if the weights stay there."""
    return tensor if current().device is None else tensor.cpu()


def memory_of(option: str, text: str | None) -> int | None:
    """Return a number of bytes written as 512MB, 8GB or 8GiB; None if it is not given.

    Raises:
        CompressionError: names the option.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i?)?B?", text, re.ASCII)
    if match is None:
        raise CompressionError(f"{option} {text}: give a size such as 512MB, 8GB or 8GiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def _reclaimable() -> int:
    """Return the bytes of cached files in the control group, which are freed when needed."""
    try:
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0


def free_memory(device: "torch.device") -> int:
    """Return the free bytes of a device; on a CPU those that this process may use."""
    import psutil
    import torch

    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    free = psutil.virtual_memory().available
    try:
        limit, used = ((_CGROUP / f"memory.{x}").read_text() for x in ("max", "current"))
        return min(free, max(int(limit) - int(used) + _reclaimable(), 0))
    except (OSError, ValueError):  # no control group, or no limit
        return free
