"""SmoothQuant (Xiao et al. 2023, section 4, equation 4).

Inputs with outlier channels are hard to round token by token, weights are not. The scale ::

    s_j = max |X_j|^alpha / max |W_j|^(1 - alpha)

divides the inputs and multiplies the weights of channel ``j``: at ``alpha = 1`` the weights take
over the inputs' whole range, at 0 the inputs take over the weights', at 0.5 they share it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.errors import naming
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.recipe import Step
from compression_gates.compression.scaling.pairs import ScalingPair
from compression_gates.compression.scaling.step import visit_pairs


def smoothing_scales(inputs: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """``(channels,)`` scales in float32, above zero and finite.

    A channel whose inputs or weights are all zero has no range to share, and scale 1.

    Args:
        inputs: ``(channels,)`` largest absolute inputs.
        weights: ``(channels,)`` largest absolute weights, over all layers that take the inputs.
        alpha: 0 to 1, how much of the inputs' range the weights take over.
    """
    inputs, weights = inputs.float(), weights.float()
    scales = inputs.pow(alpha) / weights.pow(1 - alpha)
    usable = (inputs > 0) & (weights > 0) & scales.isfinite() & (scales > 0)
    return torch.where(usable, scales, torch.ones_like(scales))


def find_scales(
    model: PreTrainedModel, pairs: Sequence[ScalingPair], step: Step, batches: Sequence[Batch]
) -> dict[ScalingPair, Tensor]:
    """The ``(channels,)`` scales of every pair, from the ranges of inputs and weights."""
    scales = {}
    for pair, seen in visit_pairs(model, pairs, batches, with_products=False, desc=step.name):
        inputs = {name: statistics.largest for name, statistics in seen.items()}
        ranges = {
            name: layer.weight.abs().amax(dim=0).float() for name, layer in pair.consumers.items()
        }
        with naming(pair.name):
            scales[pair] = smoothing_scales(
                pair.gathered(inputs, "amax"), pair.gathered(ranges, "amax"), step["alpha"]
            )
    return scales
