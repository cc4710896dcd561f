"""Magnitude pruning (Han et al. 2015, "Learning both weights and connections", section 3).

The weights with the smallest absolute value go, compared over a layer, a row or the whole model::

    S_ij = |W_ij|
"""

from torch import Tensor


def magnitude_scores(weight: Tensor) -> Tensor:
    """Scores like ``weight``, in float32."""
    return weight.float().abs()
