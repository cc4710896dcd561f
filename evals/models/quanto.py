"""quanto without its compiler."""

from importlib.util import find_spec
from types import SimpleNamespace

import torch


def unpack_in_python() -> None:
    """Has quanto unpack weights and caches on the CPU in Python.

    quanto otherwise compiles an extension into its installed package when it is first used. A run
    that is killed meanwhile leaves a lock file there, for which every later run waits without end.
    """
    if find_spec("optimum") is None or find_spec("optimum.quanto") is None:
        return  # which what needs it tells
    from optimum.quanto.library.extensions import get_extension

    get_extension("quanto_cpp")._lib = SimpleNamespace(unpack=unpack)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """The values of ``bits`` bits in bytes ``(rows, ...)``, lowest bits first, as quanto's own
    extension gives them: ``(rows * 8 // bits, ...)``."""
    mask = 2**bits - 1
    return torch.cat([(packed >> shift) & mask for shift in range(0, 8, bits)])
