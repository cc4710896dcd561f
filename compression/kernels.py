"""Triton kernels: whether they can be used, and functions that they share.

The kernels of SparseGPT and GPTQ process a block of columns for a tile of rows in each program. The
weights of the tile remain in registers, and the programs share only the block's triangular factor.
"""

import os
from importlib.util import find_spec
from shutil import which

import torch
from torch import Tensor

ROWS = 8
"""Number of rows in a tile, which one warp processes."""


def usable(device: torch.device) -> bool:
    """Return whether kernels run on a device: CUDA with Triton and the C compiler that it needs, or
    a CPU with its interpreter.

    The environment variable ``TRITON_INTERPRET=1`` selects the interpreter.
    """
    if find_spec("triton") is None:
        return False
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1"
    has_compiler = any(map(which, (os.environ.get("CC", "gcc"), "gcc", "clang", "cc")))
    return device.type == "cuda" and torch.version.hip is None and has_compiler


def launch(kernel: object, block: Tensor, *args: object, **constants: object) -> None:
    """Run a kernel for each tile of rows of a block of columns.

    Args:
        kernel: takes the block, ``args``, the number of rows, and the constants, among which are
            COLUMNS, its next power of two PADDED, and ROWS.
        block: ``(columns, rows)``, contiguous.
        args: further arguments.
        constants: further constants.
    """
    import triton

    columns, rows = block.shape
    with torch.cuda.device_of(block):
        kernel[(triton.cdiv(rows, ROWS),)](
            block, *args, rows, **constants,
            COLUMNS=columns, PADDED=triton.next_power_of_2(columns), ROWS=ROWS, num_warps=1,
            enable_fp_fusion=False,  # so that results equal those of the path without kernels
        )  # fmt: skip
