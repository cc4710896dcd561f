"""Records the queries, keys, values and attention maps of a model while it runs.

Models of transformers call their attention function through a registry. The function registered
here records its arguments and calls scaled dot-product attention.
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
    """The arguments of one call of the attention function.

    Attributes:
        query: ``(texts, heads, queries, size)``.
        key, value: ``(texts, key-value heads, keys, size)``.
        mask: boolean, true where a query attends to a key; or added to the scores; or None.
        scaling: factor of the scores.
        causal: whether queries attend to no later keys; used only without a mask.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    causal: bool

    @property
    def probabilities(self) -> Tensor:
        """The attention map ``(texts, heads, queries, keys)`` in float32."""
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


_recordings: list[list[Attention]] = []
"""The recordings in progress, the innermost last."""


def _record(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options
):
    scaling = options.get("scaling")
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    causal = options.get("is_causal")
    if causal is None:
        causal = bool(getattr(module, "is_causal", False))
    causal = causal and query.shape[2] > 1
    _recordings[-1].append(Attention(query, key, value, mask, scaling, causal))
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **options)


ALL_ATTENTION_FUNCTIONS.register(NAME, _record)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@contextmanager
def record_attention(model: PreTrainedModel) -> Iterator[list[Attention]]:
    """Record the attention calls of ``model`` inside the context, in the order of the calls.

    Raises:
        RecipeError: the model does not use the registry of attention functions.
    """
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
    except ValueError as error:
        raise RecipeError(
            f"the attention of {type(model).__name__} cannot be recorded; leave out the losses "
            "attention and relations"
        ) from error
    _recordings.append([])
    try:
        yield _recordings[-1]
    finally:
        _recordings.pop()
        model.set_attn_implementation(before)
