"""Movement pruning (Sanh et al. 2020, sections 3 and 4).

A weight stays if fine-tuning moves it away from zero. Scores ``S`` are trained with the weights
through the mask by a straight-through estimate (equation 4)::

    W' = W * M(S)        dL/dS_ij = dL/dW'_ij * W_ij

Hard: ``M`` keeps the top scores of each layer, at a sparsity that rises with the cube of time
(equation 5). Soft: ``M = S > tau`` with a penalty ``lambda_mvp * mean sigmoid(S)`` that pushes
scores below the threshold; what stays then differs between layers, and the lowest scores of all
layers go at the end, so that the sparsity is exact.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.model.capture import Batch, without_cache
from compression_gates.compression.model.gradients import inputs_of, is_seq2seq, task_loss
from compression_gates.compression.model.layers import Layer
from compression_gates.compression.model.training import ParameterGroup, fit
from compression_gates.compression.pruning.magnitude import magnitude_scores
from compression_gates.compression.pruning.masks import apply_masks
from compression_gates.compression.pruning.patterns import (
    Pattern,
    Unstructured,
    global_masks,
    lowest,
    prune_mask,
)
from compression_gates.compression.recipe import Step

WARM_UP, COOL_DOWN = 0.1, 0.3
"""Shares of the steps before sparsity rises and after it has risen."""
PENALTY = 1.0
"""Of the scores in the soft variant, at its largest."""


class _Keep(torch.autograd.Function):
    """The mask of the kept weights; its gradient passes straight through to the scores."""

    @staticmethod
    def forward(ctx, scores: Tensor, sparsity: float, soft: bool) -> Tensor:
        if soft:
            return (scores > 0).to(scores.dtype)
        count = Unstructured(sparsity).count(scores.numel())
        mask = lowest(scores.flatten(), count).view_as(scores)
        return (~mask).to(scores.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None, None


class Masked(nn.Module):
    """A weight times the mask of its scores.

    Attributes:
        scores: like the weight, trained.
        sparsity: what the mask prunes now.
        soft: by threshold instead of by rank.
    """

    def __init__(self, weight: Tensor, soft: bool):
        super().__init__()
        # Scores begin equal: the soft variant keeps all, ranks are made by the first gradients.
        self.scores = nn.Parameter(torch.full_like(weight, 0.1 if soft else 0.0))
        self.sparsity = 0.0
        self.soft = soft

    def forward(self, weight: Tensor) -> Tensor:
        return weight * _Keep.apply(self.scores, self.sparsity, self.soft)


def rising_sparsity(progress: float, sparsity: float) -> float:
    """Equation 5: zero while warming up, then a cubic rise to ``sparsity``, then constant."""
    share = (progress - WARM_UP) / (1 - WARM_UP - COOL_DOWN)
    return sparsity - sparsity * (1 - min(max(share, 0.0), 1.0)) ** 3


def movement(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    step: Step,
    after_step: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Fine-tunes ``model`` in place and gives the mask of the pruned weights of each layer.

    ``after_step`` is called after every update.

    Raises:
        CompressionError: no batch, or a loss that is not finite.
    """
    sparsity, soft = step["sparsity"], step["soft"]
    masks: dict[str, Masked] = {}
    for name, layer in layers.items():
        masks[name] = Masked(layer.module.weight.detach(), soft)
        parametrize.register_parametrization(layer.module, "weight", masks[name])

    def loss(batch: Batch, progress: float) -> Tensor:
        for mask in masks.values():
            mask.sparsity = rising_sparsity(progress, sparsity)
        keep = batch if is_seq2seq(model) else inputs_of(batch)
        with without_cache(model):
            logits = model(**keep).logits
        total = task_loss(model, batch, logits)
        if soft:
            penalty = PENALTY * rising_sparsity(progress, 1.0)
            total = (
                total
                + penalty
                * torch.stack([mask.scores.sigmoid().mean() for mask in masks.values()]).mean()
            )
        return total

    scores = [mask.scores for mask in masks.values()]
    known = {id(score) for score in scores}
    weights = [parameter for parameter in model.parameters() if id(parameter) not in known]
    try:
        rates = ((weights, step["learning_rate"]), (scores, step["score_rate"]))
        fit(
            [ParameterGroup(*rate) for rate in rates],
            batches, loss, step["steps"], step["seed"], desc=step.name,
            after_step=after_step,
        )  # fmt: skip
    finally:
        for layer in layers.values():
            parametrize.remove_parametrizations(layer.module, "weight", leave_parametrized=False)
    return _final_masks(layers, {name: mask.scores.detach() for name, mask in masks.items()}, step)


def _final_masks(
    layers: Mapping[str, Layer], scores: Mapping[str, Tensor], step: Step
) -> dict[str, Tensor]:
    """Masks ``(out, in)``; scores are compared within a layer, in the soft variant over all."""
    pattern = Unstructured(step["sparsity"])
    stored = {name: magnitude_scores(layer.stored.detach()) for name, layer in layers.items()}
    if step["soft"]:
        # Scores may be negative; their order is that of their distance from the lowest.
        least = min(float(score.min()) for score in scores.values())
        masks = global_masks({n: (s - least).float() for n, s in scores.items()}, pattern, stored)
    else:
        masks = {
            name: prune_mask(score, pattern, per_row=False, tie_break=stored[name])
            for name, score in scores.items()
        }
    return {name: m.T if layers[name].transposed else m for name, m in masks.items()}


def prune(
    compressed: Compressed,
    layers: Mapping[str, Layer],
    patterns: Mapping[str, Pattern],
    step: Step,
    batches: Sequence[Batch],
) -> None:
    """Fine-tunes the model and prunes ``layers`` in place; zeros of earlier steps stay."""
    keep = compressed.zeros_keeper(compressed.model)
    apply_masks(layers, movement(compressed.model, layers, batches, step, keep).items())
