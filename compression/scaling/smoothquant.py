"""SmoothQuant (Xiao et al. 2023, section 4, equation 4).

Inputs with outlier channels lose precision when each token is rounded with one scale. Dividing the
inputs of channel ``j`` by ``s_j`` and multiplying its weights by ``s_j`` moves a part of their
range into the weights::

    s_j = max |X_j|^alpha / max |W_j|^(1 - alpha)

For ``alpha = 1`` the whole range of the inputs moves into the weights. For ``alpha = 0`` the whole
range of the weights moves into the inputs. For ``alpha = 0.5`` the ranges become equal.
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
    """Return scales ``(channels,)`` in float32, positive and finite (equation 4).

    The scale of a channel whose inputs or weights are all zero is 1.

    Args:
        inputs: ``(channels,)`` largest absolute inputs.
        weights: ``(channels,)`` largest absolute weights, over all layers that take the inputs.
        alpha: migration strength, 0 to 1.
    """
    inputs, weights = inputs.float(), weights.float()
    scales = inputs.pow(alpha) / weights.pow(1 - alpha)
    usable = (inputs > 0) & (weights > 0) & scales.isfinite() & (scales > 0)
    return torch.where(usable, scales, torch.ones_like(scales))


def find_scales(
    model: PreTrainedModel, pairs: Sequence[ScalingPair], step: Step, batches: Sequence[Batch]
) -> dict[ScalingPair, Tensor]:
    """Return the scales ``(channels,)`` of each pair, from the ranges of its inputs and weights.

    Raises:
        CompressionError: the calibration failed.
    """
    scales = {}
    for pair, statistics in visit_pairs(model, pairs, batches, with_products=False, desc=step.name):
        inputs = {name: moments.largest for name, moments in statistics.items()}
        weights = {
            name: layer.weight.abs().amax(dim=0).float() for name, layer in pair.consumers.items()
        }
        with naming(pair.name):
            scales[pair] = smoothing_scales(
                pair.reduced(inputs, "amax"), pair.reduced(weights, "amax"), step["alpha"]
            )
    return scales
