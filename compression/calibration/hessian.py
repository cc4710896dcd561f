"""The Hessian of a layer's output error, and its inverse as SparseGPT and GPTQ use it."""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from compression_gates.compression.errors import CompressionError, CompressionWarning

DAMPING = 0.01
"""Added to the diagonal of the Hessian, as a share of its mean."""
DAMPING_TRIES = 4
"""Each further try multiplies the damping by ten."""


def output_error(difference: Tensor, hessian: Tensor) -> Tensor:
    """``(rows,)`` of ``d H d^T`` for each row ``d`` of ``difference``, in float32."""
    return ((difference.float() @ hessian.float()) * difference.float()).sum(-1)


def rising_damping(matrix: Tensor, damping: float, tries: int) -> Iterator[tuple[float, Tensor]]:
    """Shares of the mean diagonal, each ten times the one before, and ``matrix`` with them added to
    its diagonal."""
    mean = matrix.diagonal().mean()
    for attempt in range(tries):
        share = damping * 10**attempt
        damped = matrix.clone()
        damped.diagonal().add_(share * mean)
        yield share, damped


def inverse_factor(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    """Upper Cholesky factor ``U`` of the inverse Hessian: ``U^T U = H^-1``, in float32.

    A feature that never fires has an empty row and column; the damping alone then keeps it
    apart from all others, so its weights are pruned or kept but never moved.

    Raises:
        CompressionError: no factor even with the strongest damping.
    """
    hessian = hessian.float()
    if not hessian.diagonal().mean() > 0:
        raise CompressionError("the Hessian is zero: no calibration input reached the layer")
    for share, damped in rising_damping(hessian, damping, DAMPING_TRIES):
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed and upper.isfinite().all():
            if share != damping:
                warnings.warn(
                    f"the Hessian factorised only with damping {share:g} instead of {damping:g}",
                    CompressionWarning,
                    stacklevel=2,
                )
            return upper
    raise CompressionError(
        f"the Hessian does not factorise, even with damping {share:g} of its mean diagonal; "
        "calibrate on more or more varied text"
    )
