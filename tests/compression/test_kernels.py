"""Triton kernels against the path without them.

The kernels run in another process, in Triton's interpreter, because it is chosen when they are
imported. Run as a script, this file writes the results of all cases to a file.
"""

import os
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from compression_gates.compression import kernels
from compression_gates.compression.pruning.patterns import NofM, Unstructured
from compression_gates.compression.pruning.sparsegpt import sparsegpt
from compression_gates.compression.quantization.gptq import gptq
from compression_gates.compression.quantization.grids import Float8, LogGrid, Uniform
from tests import processes

ROWS, COLUMNS = 11, 24
"""A tile and a part of one; two blocks and a part of one."""
GRIDS = (Uniform(4), Uniform(3, False), Uniform(8, False), LogGrid(2), LogGrid(8), Float8())
SETTINGS = (
    dict(group=8),
    dict(group=12),
    dict(act_order=True),
    dict(group=8, act_order=True),
)


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight with zeros, ties and rows of very different size, and a Hessian."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(90, COLUMNS, generator=generator)
    inputs += inputs @ torch.randn(COLUMNS, COLUMNS, generator=generator) / COLUMNS**0.5
    weight = torch.randn(ROWS, COLUMNS, generator=generator).round(decimals=1)
    weight *= torch.logspace(-4, 2, ROWS)[:, None]
    return weight.masked_fill(torch.rand(weight.shape, generator=generator) < 0.3, 0.0), (
        inputs.T @ inputs
    )


CASES = [
    *(
        partial(sparsegpt, pattern=pattern, block=9)
        for pattern in (Unstructured(0.5), NofM(2, 4), NofM(1, 3), NofM(5, 12))
    ),
    *(partial(gptq, grid=grid, keep_zeros=keep, block=9) for grid in GRIDS for keep in (0, 1)),
    *(
        partial(gptq, grid=grid, keep_zeros=True, block=9, **settings)
        for grid in GRIDS[:2]
        for settings in SETTINGS
    ),
]


def result(case: partial) -> tuple[torch.Tensor, ...]:
    solved = case(*problem())
    if isinstance(solved, torch.Tensor):
        return (solved,)
    return solved.codes, solved.scales, solved.zeros if solved.zeros is not None else torch.empty(0)


@pytest.fixture(scope="module")
def by_kernel(tmp_path_factory):
    if find_spec("triton") is None:
        pytest.skip("needs triton")
    path = tmp_path_factory.mktemp("kernels") / "results.pt"
    root = Path(__file__).parents[2]
    # Workers of pytest-xdist leave the current folder out of the path of what they start.
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    done = processes.run_fresh("tests.compression.test_kernels", [path], root, env=environment)
    assert done.returncode == 0, done.stderr
    return torch.load(path)


@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=lambda n: f"{CASES[n].func.__name__} {CASES[n].keywords}"
)
def test_kernel_equals_the_path_without_it(by_kernel, number):
    """Zeros and codes are equal bit for bit. Between blocks, both use a product of BLAS, which some
    CPUs round by the layout of its operands in memory."""
    for expected, actual in zip(result(CASES[number]), by_kernel[number], strict=True):
        assert torch.equal(expected == 0, actual == 0)
        tolerance = 1e-6 if expected.is_floating_point() else 0
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=0)


def compiled(folder: Path) -> list[tuple[bool, str]]:
    """Return whether each kernel was compiled for a GPU, and its instructions."""
    os.environ["TRITON_CACHE_DIR"] = str(folder)
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from compression_gates.compression.pruning.sparsegpt_kernel import prune_tile
    from compression_gates.compression.quantization.gptq_kernel import round_tile

    blocks = {"block": "*fp32", "factor": "*fp32", "errors": "*fp32", "rows": "i32"}
    codes = {"scales": "*bf16", "zeros": "*u8", "mask": "*i8", "codes": "*i16"}
    size = dict(COLUMNS=96, PADDED=128, ROWS=8)
    grid = dict(LOWEST=-7, HIGHEST=7, AFFINE=True, PRUNED=True)
    grids = ("Uniform", "LogGrid", "Float8")
    cases = [
        (prune_tile, blocks | {"mask": "*i8"}, dict(GROUP=0, COUNT=0)),
        (prune_tile, blocks | {"mask": "*fp32"}, dict(GROUP=4, COUNT=2)),
        *((round_tile, blocks | codes, grid | dict(GRID=name)) for name in grids),
    ]
    programs = []
    for kernel, types, constants in cases:
        constants |= size
        source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants)
        options = dict(num_warps=1, enable_fp_fusion=False)
        program = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        programs.append(("cubin" in program.asm, program.asm["ptx"]))
    return programs


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_kernels_compile_for_a_gpu_without_fused_multiplications(tmp_path):
    for has_binary, instructions in processes.result_of(compiled, tmp_path):
        assert has_binary
        assert "fma.rn.f32" not in instructions


def test_kernels_are_not_used_on_a_cpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not kernels.usable(torch.device("cpu"))


def test_kernels_are_not_used_without_triton(monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert not kernels.usable(torch.device("cuda"))


if __name__ == "__main__":
    assert kernels.usable(torch.device("cpu"))
    torch.save([result(case) for case in CASES], sys.argv[1])
