"""SparseGPT and GPTQ against the factorization and the matrix product that they cannot do without.

The product of the weight and the Hessian has twice the operations of the updates between blocks.
Times are of the CPU, which other processes disturb less than the time that passes.

pytest tests/benchmarks/test_solvers.py -s
"""

import time
from functools import cache

import pytest
import torch

from compression_gates.compression.calibration.hessian import inverse_factor
from compression_gates.compression.pruning.patterns import NofM, Unstructured
from compression_gates.compression.pruning.sparsegpt import sparsegpt
from compression_gates.compression.quantization.gptq import gptq
from compression_gates.compression.quantization.grids import Uniform

LIMIT = 2.0
"""A solver costs at most this times the factorization and one product."""
SOLVERS = {
    "sparsegpt-50": lambda weight, hessian: sparsegpt(weight, hessian, Unstructured(0.5)),
    "sparsegpt-2:4": lambda weight, hessian: sparsegpt(weight, hessian, NofM(2, 4)),
    "gptq-int4": lambda weight, hessian: gptq(weight, hessian, Uniform(4)),
    "gptq-int4,group=32": lambda weight, hessian: gptq(weight, hessian, Uniform(4), group=32),
    "gptq-int4,act_order": lambda weight, hessian: gptq(
        weight, hessian, Uniform(4), act_order=True
    ),
}


@cache
def layer(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight and the Hessian of correlated inputs."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2 * columns, columns, generator=generator)
    inputs += inputs @ torch.randn(columns, columns, generator=generator) / columns**0.5
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / columns


@pytest.mark.parametrize("shape", [(512, 1376), (2048, 2048)], ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
def test_solver_against_its_factorization_and_product(benchmark, solver, shape):
    weight, hessian = layer(*shape)

    def bare() -> float:
        start = time.process_time()
        weight @ inverse_factor(hessian)
        return time.process_time() - start

    def solved() -> float:
        start = time.process_time()
        SOLVERS[solver](weight, hessian)
        return time.process_time() - start

    bare(), solved()
    ratio = sorted(solved() / bare() for _ in range(5))[2]
    benchmark.extra_info["ratio to the bare cost"] = round(ratio, 2)
    benchmark.pedantic(solved, rounds=3)
    print(f"\n{solver}, {shape[0]} x {shape[1]}: {ratio:.2f} x the bare cost")
    assert ratio <= LIMIT
