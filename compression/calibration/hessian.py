"""Hessian of a layer's output error, and the factor of its inverse in SparseGPT and GPTQ."""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from compression_gates.compression.errors import CompressionError, CompressionWarning

DAMPING = 0.01
"""Term added to the diagonal of the Hessian, as a share of its mean."""
DAMPING_TRIES = 4
"""Number of attempts; each multiplies the damping by ten."""
SMALLEST_HALF = 128
"""Largest triangular matrix that is not inverted by halves."""


def output_error(difference: Tensor, hessian: Tensor) -> Tensor:
    """Return ``d H d^T`` ``(rows,)`` for each row ``d`` of ``difference``, in float32."""
    return ((difference.float() @ hessian.float()) * difference.float()).sum(-1)


def error_difference(first: Tensor, second: Tensor, hessian: Tensor) -> Tensor:
    """Return the sum of :func:`output_error` for ``first`` minus that for ``second``.

    Because ``H`` is symmetric, ``a H a^T - b H b^T = (a - b) H (a + b)^T``, which needs only one
    product with ``H``.
    """
    first, second = first.float(), second.float()
    return (((first - second) @ hessian.float()) * (first + second)).sum()


def rising_damping(matrix: Tensor, damping: float, tries: int) -> Iterator[tuple[float, Tensor]]:
    """Yield increasing damping, each ten times the previous one, and ``matrix`` with it added.

    Damping is a share of the mean diagonal and is added to the diagonal.
    """
    mean = matrix.diagonal().mean()
    for attempt in range(tries):
        share = damping * 10**attempt
        damped = matrix.clone()
        damped.diagonal().add_(share * mean)
        yield share, damped


def decreasing_diagonal(hessian: Tensor) -> Tensor:
    """Return the order ``(features,)`` of decreasing ``H_jj``."""
    return hessian.diagonal().argsort(descending=True, stable=True)


def inverse_factor(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    """Return the upper Cholesky factor ``U`` of the inverse Hessian: ``U^T U = H^-1``, in float32.

    With ``J`` the matrix that reverses an order and ``L`` the lower Cholesky factor of ``J H J``,
    ``U = J L^-1 J``. The inverse Hessian itself is not needed.

    The row and column of a feature that is always zero are zero except for the damping, so its
    weights can be pruned but are never updated.

    Raises:
        CompressionError: the factorization fails even with the largest damping.
    """
    hessian = hessian.float()
    if not hessian.diagonal().mean() > 0:
        raise CompressionError("the Hessian is zero: no calibration input reached the layer")
    for share, damped in rising_damping(hessian.flip(0, 1), damping, DAMPING_TRIES):
        lower, failed = torch.linalg.cholesky_ex(damped)
        upper = damped if failed else inverse_of_lower(lower).flip(0, 1).contiguous()
        if not failed and upper.isfinite().all():
            if share != damping:
                warnings.warn(
                    f"the Hessian needed damping {share:g} instead of {damping:g}",
                    CompressionWarning,
                    stacklevel=2,
                )
            return upper
    raise CompressionError(
        f"the Cholesky factorization of the Hessian fails even with damping {share:g}; "
        "calibrate on more or more varied text"
    )


def inverse_of_lower(lower: Tensor) -> Tensor:
    """Return the inverse of a lower triangular matrix, by halves, which needs mostly products::

    [A 0]^-1    [    A^-1       0  ]
    [B C]     = [-C^-1 B A^-1  C^-1]
    """
    size = len(lower)
    if size <= SMALLEST_HALF:
        identity = torch.eye(size, dtype=lower.dtype, device=lower.device)
        return torch.linalg.solve_triangular(lower, identity, upper=False)
    first, second = slice(0, size // 2), slice(size // 2, None)
    inverse = torch.zeros_like(lower)
    inverse[first, first] = inverse_of_lower(lower[first, first])
    inverse[second, second] = inverse_of_lower(lower[second, second])
    product = lower[second, first] @ inverse[first, first]
    inverse[second, first] = -(inverse[second, second] @ product)
    return inverse
