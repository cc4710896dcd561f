"""First-order Taylor pruning (Molchanov et al. 2017, section 2.2, equation 8, per weight).

What the loss changes by when a weight is set to zero is, to first order::

    S_ij = |W_ij * dL/dW_ij|

with the gradient of the mean loss over the calibration data.
"""

from torch import Tensor


def taylor_scores(weight: Tensor, gradient: Tensor) -> Tensor:
    """Scores like ``weight``, in float32."""
    return (weight.float() * gradient.float()).abs()
