"""Movement pruning (Sanh et al. 2020, sections 3 and 4).

Weights that fine-tuning moves away from zero are kept. Scores ``S`` are trained together with the
weights, using a straight-through estimator for the mask ``M`` (equation 4)::

    W' = W * M(S)        dL/dS_ij = dL/dW'_ij * W_ij

Hard movement pruning keeps the highest scores of each layer. Its sparsity follows the cubic
schedule of equation 5. Soft movement pruning keeps the scores above a threshold ``tau`` and adds
the penalty ``lambda_mvp * mean sigmoid(S)`` to the loss, which pushes scores below the threshold.
Its sparsity differs between layers, so the lowest scores over all layers are pruned at the end to
reach the requested sparsity exactly.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from compression_gates.compression.model.capture import Batch, without_cache
from compression_gates.compression.model.gradients import inputs_of, is_seq2seq, task_loss
from compression_gates.compression.model.layers import Layer
from compression_gates.compression.model.training import ParameterGroup, fit
from compression_gates.compression.pruning.magnitude import magnitude_scores
from compression_gates.compression.pruning.masks import PruningTask, apply_masks, layer_view
from compression_gates.compression.pruning.patterns import (
    Unstructured,
    global_masks,
    lowest_mask,
    prune_mask,
)
from compression_gates.compression.recipe import Step

WARM_UP, COOL_DOWN = 0.1, 0.3
"""Fractions of the training steps at zero sparsity and at the final sparsity."""
PENALTY = 1.0
"""Largest weight ``lambda_mvp`` of the penalty in soft movement pruning."""


class _KeepMask(torch.autograd.Function):
    """The mask ``M(S)`` of the kept weights, with a straight-through gradient to the scores."""

    @staticmethod
    def forward(ctx, scores: Tensor, sparsity: float, soft: bool) -> Tensor:
        if soft:
            return (scores > 0).to(scores.dtype)
        count = Unstructured(sparsity).count(scores.numel())
        mask = lowest_mask(scores.flatten(), count).view_as(scores)
        return (~mask).to(scores.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None, None


class Masked(nn.Module):
    """A parametrization that multiplies a weight by the mask of its scores.

    Attributes:
        scores: trained scores, shaped like the weight.
        sparsity: the current sparsity of the mask; not used by soft movement pruning.
        soft: whether the mask is a threshold on the scores instead of their highest ranks.
    """

    def __init__(self, weight: Tensor, soft: bool):
        super().__init__()
        # Above the threshold, so that soft movement pruning starts with every weight.
        self.scores = nn.Parameter(torch.full_like(weight, 0.1 if soft else 0.0))
        self.sparsity = 0.0
        self.soft = soft

    def forward(self, weight: Tensor) -> Tensor:
        return weight * _KeepMask.apply(self.scores, self.sparsity, self.soft)


def scheduled_sparsity(progress: float, sparsity: float) -> float:
    """Return the sparsity of equation 5: zero during warm-up, a cubic rise, then constant.

    Args:
        progress: fraction of the training steps completed, 0 to 1.
        sparsity: the final sparsity.
    """
    share = (progress - WARM_UP) / (1 - WARM_UP - COOL_DOWN)
    return sparsity - sparsity * (1 - min(max(share, 0.0), 1.0)) ** 3


def movement(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    step: Step,
    after_step: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Fine-tune ``model`` in place and return the masks of the weights to prune.

    Args:
        model: the whole model is trained, not only ``layers``.
        layers: the layers to prune, by name; none of them an expert of a mixture.
        batches: the training data.
        step: its settings ``sparsity``, ``soft``, ``steps``, ``seed``, ``learning_rate`` and
            ``score_rate`` are used.
        after_step: called after every update.

    Returns:
        The mask ``(out, in)`` of the pruned weights of each layer, by name.

    Raises:
        CompressionError: there is no batch, or the loss is not finite.
    """
    sparsity, soft = step["sparsity"], step["soft"]
    masks: dict[str, Masked] = {}
    for name, layer in layers.items():
        masks[name] = Masked(layer.module.weight.detach(), soft)
        parametrize.register_parametrization(layer.module, "weight", masks[name])

    def loss(batch: Batch, progress: float) -> Tensor:
        for mask in masks.values():
            mask.sparsity = scheduled_sparsity(progress, sparsity)
        inputs = batch if is_seq2seq(model) else inputs_of(batch)
        with without_cache(model):
            logits = model(**inputs).logits
        total = task_loss(model, batch, logits)
        if soft:
            penalty = PENALTY * scheduled_sparsity(progress, 1.0)
            means = [mask.scores.sigmoid().mean() for mask in masks.values()]
            total = total + penalty * torch.stack(means).mean()
        return total

    scores = [mask.scores for mask in masks.values()]
    score_ids = {id(score) for score in scores}
    weights = [parameter for parameter in model.parameters() if id(parameter) not in score_ids]
    groups = [
        ParameterGroup(weights, step["learning_rate"]),
        ParameterGroup(scores, step["score_rate"]),
    ]
    try:
        fit(
            groups, batches, loss, step["steps"], step["seed"], desc=step.name,
            after_step=after_step,
        )  # fmt: skip
    finally:
        for layer in layers.values():
            parametrize.remove_parametrizations(layer.module, "weight", leave_parametrized=False)
    return _final_masks(layers, {name: mask.scores.detach() for name, mask in masks.items()}, step)


def _final_masks(
    layers: Mapping[str, Layer], scores: Mapping[str, Tensor], step: Step
) -> dict[str, Tensor]:
    """Return masks ``(out, in)`` by name, from scores that are shaped like the stored parameters.

    Scores are compared within each layer, or over all layers in soft movement pruning.
    """
    pattern = Unstructured(step["sparsity"])
    ties = {name: magnitude_scores(layer.stored.detach()) for name, layer in layers.items()}
    if step["soft"]:
        # global_masks takes scores that are not negative.
        least = min(float(score.min()) for score in scores.values())
        masks = global_masks({n: (s - least).float() for n, s in scores.items()}, pattern, ties)
    else:
        masks = {
            name: prune_mask(score, pattern, per_row=False, tie_break=ties[name])
            for name, score in scores.items()
        }
    return {name: layer_view(layers[name], mask) for name, mask in masks.items()}


def prune(task: PruningTask) -> None:
    """Fine-tune the model and prune the layers of a task in place; earlier zeros are preserved.

    Raises:
        CompressionError: there is no batch, or the loss is not finite.
    """
    model = task.compressed.model
    keep_zeros = task.compressed.zeros_keeper(model)
    masks = movement(model, task.layers, task.batches, task.step, keep_zeros)
    apply_masks(task.layers, masks.items())
