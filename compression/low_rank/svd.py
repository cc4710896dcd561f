"""Low-rank approximation of a weight by singular value decomposition.

Truncated SVD keeps the ``r`` largest singular values. No other matrix of rank ``r`` has a smaller
error, which is the sum of the squares of the discarded values (Eckart & Young 1936)::

    W = U S V^T        W_r = U_r S_r V_r^T        ||W - W_r||_F^2 = sum_{i > r} s_i^2

SVD-LLM (Wang et al. 2025, section 3.1) truncates ``W L``, with the Cholesky factor ``L L^T = X
X^T`` of the calibration inputs. The discarded values then give the error of the outputs::

    W L = U S V^T      W_r = U_r S_r V_r^T L^-1   ||(W - W_r) X||_F^2 = sum_{i > r} s_i^2
"""

import torch
from torch import Tensor

from compression_gates.compression.calibration.hessian import rising_damping
from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.recipe import Step

DAMPING = 1e-6
"""Added to the diagonal of ``X X^T``, as a fraction of its mean; needed for dead features."""
DAMPING_TRIES = 5
"""Number of attempts, each with ten times the damping of the one before."""


def svd(weight: Tensor, step: Step, moments: None = None) -> tuple[Tensor, Tensor]:
    """Return the factors of :func:`factorize` with the step's settings, by truncated SVD."""
    return factorize(weight, step["ratio"], step["energy"])


def svdllm(weight: Tensor, step: Step, moments: InputStatistics) -> tuple[Tensor, Tensor]:
    """Return the factors of :func:`factorize` with the step's settings, by SVD-LLM."""
    return factorize(weight, step["ratio"], step["energy"], moments.products)


def rank_of(
    values: Tensor, rows: int, columns: int, ratio: float | None, energy: float | None
) -> int:
    """Return the number of singular values to keep, at least one.

    Exactly one of ``ratio`` and ``energy`` is given.

    Args:
        values: the singular values, largest first.
        rows, columns: of the weight.
        ratio: largest number of parameters of both factors, as a fraction of the weight's.
        energy: fraction of the sum of squared singular values to reach.
    """
    if ratio is not None:
        # A ratio such as 0.58 is not exact in binary, which must not reduce the rank.
        return max(int(ratio * rows * columns / (rows + columns) * (1 + 1e-12)), 1)
    squares = values.double().square()
    total = squares.sum()
    if not total > 0:
        return 1
    reached = squares.cumsum(0) >= energy * total * (1 - 1e-12)
    return int(reached.int().argmax()) + 1


def factorize(
    weight: Tensor,
    ratio: float | None = None,
    energy: float | None = None,
    products: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``A`` ``(rank, columns)`` and ``B`` ``(rows, rank)`` such that ``B A`` approximates W.

    The computation is in float64, and the factors have the dtype of ``weight``. Each factor is
    multiplied by the square roots of the singular values, so that both have a similar range.

    Args:
        weight: ``(rows, columns)``.
        ratio, energy: exactly one of them; see :func:`rank_of`.
        products: ``X X^T`` ``(columns, columns)``, up to a factor, for SVD-LLM; None for truncated
            SVD.

    Raises:
        CompressionError: ``X X^T`` has no Cholesky factor.
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
    """Return the lower Cholesky factor of ``products`` with the least damping that works."""
    for _, damped in rising_damping(products, DAMPING, DAMPING_TRIES):
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return lower
    raise CompressionError(
        "the products X X^T of the calibration inputs have no Cholesky factor; calibrate on more "
        "or more varied text"
    )


def is_smaller(rank: int, rows: int, columns: int) -> bool:
    """Return whether two factors of the given rank have fewer parameters than the weight."""
    return rank * (rows + columns) < rows * columns
