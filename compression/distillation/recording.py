"""Queries, keys, values and attention maps of a model while it runs, whatever its architecture.

transformers lets every model call attention through one registry. Here a function is registered
that notes what it is given and hands on to the model's own implementation, so nothing about the
model's computation changes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from compression_gates.compression.errors import RecipeError

NAME = "recorded_sdpa"


@dataclass(frozen=True)
class Attention:
    """What one layer attended with.

    Attributes:
        query: ``(texts, heads, queries, size)``.
        key, value: ``(texts, key-value heads, keys, size)``.
        mask: what is added to the scores, or where they count, or None.
        scaling: of the scores.
        causal: whether queries see later keys, where no mask says it.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    causal: bool

    @property
    def probabilities(self) -> Tensor:
        """The attention map ``(texts, heads, queries, keys)``, in float32."""
        key = self.key.repeat_interleave(self.query.shape[1] // self.key.shape[1], dim=1)
        scores = (self.query @ key.mT).float() * self.scaling
        if self.mask is not None:
            if self.mask.dtype == torch.bool:
                scores = scores.masked_fill(~self.mask, torch.finfo(scores.dtype).min)
            else:
                scores = scores + self.mask.float()
        elif self.causal:
            later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)
        return scores.softmax(-1)


_open: list[list[Attention]] = []
"""The recordings that are open now."""


def _record(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options
):
    scaling = options.get("scaling")
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    causal = options.get("is_causal")
    if causal is None:
        causal = bool(getattr(module, "is_causal", False))
    _open[-1].append(Attention(query, key, value, mask, scaling, causal and query.shape[2] > 1))
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **options)


ALL_ATTENTION_FUNCTIONS.register(NAME, _record)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@contextmanager
def recorded(model: PreTrainedModel) -> Iterator[list[Attention]]:
    """Every attention of ``model`` while it is open, in the order of its layers.

    Raises:
        RecipeError: the model computes its attention in a way of its own.
    """
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
    except ValueError as error:
        raise RecipeError(
            f"{type(model).__name__}: its attention cannot be recorded; use other losses"
        ) from error
    _open.append([])
    try:
        yield _open[-1]
    finally:
        _open.pop()
        model.set_attn_implementation(before)
