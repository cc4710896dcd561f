"""A few tokens that are run through a model to see which numbers reach which."""

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.catalogue import GRADIENTS, TRAINING
from compression_gates.compression.errors import RecipeError, placed_reason_of, unreached
from compression_gates.compression.model.capture import Batch, watched, without_cache
from compression_gates.compression.model.layers import Layer, selected_layers
from compression_gates.compression.recipe import Step

_CLASH = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, AssertionError)
"""What a forward raises where sizes do not fit."""
_SHOWN = 4
"""Layers that a note names; of more, their number."""
_TOKENS = 32
"""Of all texts. With a ReLU, a channel that is off for every random token is one in 2**32."""


def takes_tokens(model: PreTrainedModel) -> bool:
    """Whether the model can be run on tokens, and not only on pictures or sound."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # of a class that has none
        return False
    return model.main_input_name == "input_ids" and isinstance(weight, Tensor) and weight.ndim == 2


def probe_batch(model: PreTrainedModel) -> Batch:
    """Random tokens, with the decoder's where there is one.

    Two texts, the second one padded, or a single one where there is no padding. Each has an end
    of text and only one, which some classifiers look for.

    Raises:
        RecipeError: the model takes no tokens.
    """
    if not takes_tokens(model):
        raise RecipeError(f"{type(model).__name__} takes no tokens, as a probe needs")
    table = model.get_input_embeddings()
    config = model.config.get_text_config()
    known = range(len(table.weight))
    padding, end = (
        token if (token := getattr(config, key, None)) in known else None
        for key in ("pad_token_id", "eos_token_id")
    )
    texts = 1 if padding is None else 2
    length = _TOKENS // texts
    longest = getattr(config, "max_position_embeddings", None) or 0
    # Two positions less: some models begin to count behind the padding's number.
    length = min(length, longest - 2) if longest > 2 else length
    plain = torch.tensor([token for token in known if token not in (padding, end)])
    generator = torch.Generator().manual_seed(0)
    ids = plain[torch.randint(len(plain), (texts, length), generator=generator)]
    mask = torch.ones_like(ids)
    mask[1:, -(length // 4) :] = 0
    if end is not None:
        ids[:, length - length // 4 - 1] = end
    if texts > 1:
        ids = ids.masked_fill(mask == 0, padding)
    batch = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def run_probe(model: PreTrainedModel) -> Tensor:
    """The first of the model's outputs on the probe.

    Raises:
        RecipeError: it does not run.
    """
    try:
        with without_cache(model):
            return model(**probe_batch(model))[0]
    except _CLASH as error:
        raise RecipeError(
            f"{type(model).__name__} does not run on a probe of random tokens: "
            f"{placed_reason_of(error, model)}"
        ) from error


@torch.no_grad()
def uncalled_layers(model: PreTrainedModel, layers: Mapping[str, Layer]) -> list[str]:
    """Names of the ``layers`` that a forward on the probe does not call: the model reads their
    weight itself, or leaves them out. Layers of experts are none of them.

    Raises:
        RecipeError: the model takes no tokens, or does not run.
    """
    called: set[str] = set()
    single = {name: layer for name, layer in layers.items() if not layer.routed}
    with watched(model, single, lambda name, _: called.add(name)):
        run_probe(model)
    return [name for name in single if name not in called]


def unused_layers(model: PreTrainedModel, layers: Mapping[str, Layer]) -> list[str]:
    """Names of the ``layers`` on whose weight the outputs on the probe do not depend, whether they
    are called or their weight is read. Layers of experts are none of them.

    Raises:
        RecipeError: the model takes no tokens, or does not run.
    """
    single = {name: layer.stored for name, layer in layers.items() if not layer.routed}
    frozen = [parameter for parameter in single.values() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            total = run_probe(model).float().sum()
            gradients = torch.autograd.grad(total, list(single.values()), allow_unused=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return [name for name, found in zip(single, gradients, strict=True) if found is None]


def select_reached(model: PreTrainedModel, step: Step) -> tuple[dict[str, Layer], list[str]]:
    """The layers that a step touches, without those that no text reaches, such as an image tower's;
    and a note on these. A method without gradients sees inputs of layers that are called alone.

    Raises:
        RecipeError: a pattern of ``include`` matches a layer that no text reaches, or no text
            reaches any; or as :func:`~compression_gates.compression.model.layers.selected_layers`.
    """
    layers = selected_layers(model, step)
    by_gradient = step.entry.needs in (GRADIENTS, TRAINING)
    if by_gradient and not takes_tokens(model):
        return layers, []
    left_out = (unused_layers if by_gradient else uncalled_layers)(model, layers)
    if not left_out:
        return layers, []
    reached = {name: layer for name, layer in layers.items() if name not in left_out}
    if step["include"] or not reached:
        endings = dict.fromkeys(name.rpartition(".")[2] for name in left_out)
        others = {name.rpartition(".")[2] for name in reached}
        how = "" if others & endings.keys() else ": exclude=" + "|".join(f"*.{x}" for x in endings)
        raise unreached(left_out[0], how)
    shown = ", ".join(left_out[:_SHOWN])
    if len(left_out) > _SHOWN:
        shown += f" and {len(left_out) - _SHOWN} more"
    return reached, [
        f"{step.name}: {len(left_out)} of {len(layers)} layers stay as they are, as no calibration "
        f"input reaches them: {shown}"
    ]


def random_outputs(name: str, call: int, like: Tensor, width: int) -> Tensor:
    """``(..., width)`` standard normal numbers, the same ones for the same layer and call.

    Put in place of what a layer gives, they wake what is next to dead in the weights: no ReLU is
    off for all tokens, no softmax is nearly uniform.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {call}".encode()))
    drawn = torch.randn(*like.shape[:-1], width, generator=generator)
    return drawn.to(like.device, like.dtype)
