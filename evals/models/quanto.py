"""Use of optimum-quanto without compiling its extension."""

from importlib.util import find_spec
from types import SimpleNamespace

import torch


def unpack_in_python() -> None:
    """Make quanto unpack weights and caches on the CPU in Python, if it is installed.

    By default, quanto compiles an extension into its installed package on first use. If the process
    is killed meanwhile, it leaves a lock file, and every later process waits for it forever.
    """
    if find_spec("optimum") is None or find_spec("optimum.quanto") is None:
        return  # the code that needs quanto reports that it is missing
    from optimum.quanto.library.extensions import get_extension

    get_extension("quanto_cpp")._lib = SimpleNamespace(unpack=unpack)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the values of ``bits`` bits each that are packed into bytes, lowest bits first.

    Equivalent to quanto's extension: ``(rows, ...)`` becomes ``(rows * 8 // bits, ...)``.
    """
    mask = 2**bits - 1
    return torch.cat([(packed >> shift) & mask for shift in range(0, 8, bits)])
