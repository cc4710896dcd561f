"""Low-rank approximation of a weight.

Truncated SVD keeps the largest singular values; no matrix of that rank is nearer (Eckart & Young
1936), and what is lost is what was discarded::

    W = U S V^T        W_r = U_r S_r V_r^T        ||W - W_r||_F^2 = sum_{i > r} s_i^2

Whitened (SVD-LLM, Wang et al. 2025, section 3.1): with the Cholesky factor ``L L^T = X X^T`` of
the calibration inputs, truncating ``W L`` makes the loss of *outputs* what was discarded::

    W L = U S V^T      W_r = U_r S_r V_r^T L^-1   ||(W - W_r) X||_F^2 = sum_{i > r} s_i^2
"""

import torch
from torch import Tensor

from compression_gates.compression.calibration.driver import InputStatistics
from compression_gates.compression.calibration.hessian import rising_damping
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.recipe import Step

DAMPING = 1e-6
"""Added to the diagonal of ``X X^T`` as a share of its mean: a feature may never fire."""
DAMPING_TRIES = 5
"""Each further try multiplies the damping by ten: sums of float32 products are not exact."""


def svd(weight: Tensor, step: Step, seen: None = None) -> tuple[Tensor, Tensor]:
    """The factors that a step asks for, without looking at any input."""
    return factorise(weight, step["ratio"], step["energy"])


def svdllm(weight: Tensor, step: Step, seen: InputStatistics) -> tuple[Tensor, Tensor]:
    """The factors that a step asks for, whitened by the layer's inputs."""
    return factorise(weight, step["ratio"], step["energy"], seen.products)


def rank_of(
    values: Tensor, rows: int, columns: int, ratio: float | None, energy: float | None
) -> int:
    """How many singular values stay; at least one.

    Args:
        values: all of them, largest first.
        rows, columns: of the weight.
        ratio: parameters of both factors as a share of the weight's, or
        energy: share of the squared singular values.
    """
    if ratio is not None:
        # A share such as 0.58 is not exact, and must not lose a rank to that.
        return max(int(ratio * rows * columns / (rows + columns) * (1 + 1e-12)), 1)
    squares = values.double().square()
    total = squares.sum()
    if not total > 0:
        return 1
    reached = squares.cumsum(0) >= energy * total * (1 - 1e-12)
    return int(reached.int().argmax()) + 1


def factorise(
    weight: Tensor,
    ratio: float | None = None,
    energy: float | None = None,
    products: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``A`` ``(rank, columns)`` and ``B`` ``(rows, rank)`` with ``B A`` close to ``weight``.

    Solved in float64, given back in the dtype of ``weight``. The singular values are shared out
    evenly between the factors, which keeps both in the range of half precision.

    Args:
        weight: ``(rows, columns)``.
        ratio, energy: one of them, as for :func:`rank_of`.
        products: ``X X^T`` up to a factor, to whiten by; None for plain truncation.
    """
    rows, columns = weight.shape
    target = weight.double()
    lower = None
    if products is not None:
        products = products.double()
        mean = products.diagonal().mean()
        if mean > 0:
            products = products / mean
            lower = _root(products)
            target = target @ lower
    left, values, right = torch.linalg.svd(target, full_matrices=False)
    rank = rank_of(values, rows, columns, ratio, energy)
    root = values[:rank].sqrt()
    first = root[:, None] * right[:rank]
    if lower is not None:
        first = torch.linalg.solve_triangular(lower, first, upper=False, left=False)
    return first.to(weight.dtype), (left[:, :rank] * root).to(weight.dtype)


def _root(products: Tensor) -> Tensor:
    """Lower Cholesky factor of ``products``, damped as little as it takes."""
    for _, damped in rising_damping(products, DAMPING, DAMPING_TRIES):
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return lower
    raise CompressionError(
        "the products of its inputs do not factorise; calibrate on more or more varied text"
    )


def is_smaller(rank: int, rows: int, columns: int) -> bool:
    """Whether two factors of that rank hold fewer parameters than the weight."""
    return rank * (rows + columns) < rows * columns
