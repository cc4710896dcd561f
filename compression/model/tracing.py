"""Run a model on a few random tokens to find out which layers affect its outputs."""

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.catalogue import GRADIENTS, TRAINING
from compression_gates.compression.errors import RecipeError, placed_reason_of, unreached
from compression_gates.compression.model.capture import Batch, capture_inputs, without_cache
from compression_gates.compression.model.gradients import gradients_enabled
from compression_gates.compression.model.layers import Layer, selected_layers
from compression_gates.compression.recipe import Step

_CLASH = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, AssertionError)
"""Errors that a forward pass raises if sizes do not match."""
_MAX_NAMES = 4
"""Layers named in a note; further ones are only counted."""
_TOKENS = 32
"""Tokens in total. The probability that a ReLU is inactive for all of them is about 2**-32."""


def takes_tokens(model: PreTrainedModel) -> bool:
    """Return whether the model accepts tokens, rather than only images or audio."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # the class has no input embeddings
        return False
    return model.main_input_name == "input_ids" and isinstance(weight, Tensor) and weight.ndim == 2


def probe_batch(model: PreTrainedModel) -> Batch:
    """Return a batch of random tokens, with ``decoder_input_ids`` for an encoder-decoder model.

    It has two texts, the second of them padded, or one if the model has no padding token. Each
    text has exactly one end-of-text token, which some classifiers search for.

    Raises:
        RecipeError: the model does not accept tokens.
    """
    if not takes_tokens(model):
        raise RecipeError(f"{type(model).__name__} does not accept tokens, so it cannot be probed")
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
    # Two positions less, because some models start counting after the padding index.
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
    """Return the model's first output on :func:`probe_batch`.

    Raises:
        RecipeError: the model does not accept tokens, or does not run.
    """
    try:
        with without_cache(model):
            return model(**probe_batch(model))[0]
    except _CLASH as error:
        raise RecipeError(
            f"{type(model).__name__} does not run on a batch of random tokens: "
            f"{placed_reason_of(error, model)}"
        ) from error


@torch.no_grad()
def uncalled_layers(model: PreTrainedModel, layers: Mapping[str, Layer]) -> list[str]:
    """Return the names of the ``layers``, except experts, that a forward pass does not call.

    The model does not use them, or reads their weight without calling them.

    Raises:
        RecipeError: as :func:`run_probe`.
    """
    called: set[str] = set()
    dense = {name: layer for name, layer in layers.items() if not layer.routed}
    with capture_inputs(model, dense, lambda name, _: called.add(name)):
        run_probe(model)
    return [name for name in dense if name not in called]


def unused_layers(model: PreTrainedModel, layers: Mapping[str, Layer]) -> list[str]:
    """Return the names of the ``layers``, except experts, whose weight does not affect the output.

    Raises:
        RecipeError: as :func:`run_probe`.
    """
    dense = {name: layer.stored for name, layer in layers.items() if not layer.routed}
    with gradients_enabled(dense.values()):
        total = run_probe(model).float().sum()
        gradients = torch.autograd.grad(total, list(dense.values()), allow_unused=True)
    return [name for name, gradient in zip(dense, gradients, strict=True) if gradient is None]


def select_reached(model: PreTrainedModel, step: Step) -> tuple[dict[str, Layer], list[str]]:
    """Return the layers that a step selects and that text reaches, and notes on the others.

    Layers of an image encoder, for example, are not reached. For methods without gradients, a layer
    is reached only if it is called.

    Raises:
        RecipeError: no selected layer is reached, or ``include`` selects one that is not; or as
            :func:`~compression_gates.compression.model.layers.selected_layers`.
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
    names = ", ".join(left_out[:_MAX_NAMES])
    if len(left_out) > _MAX_NAMES:
        names += f" and {len(left_out) - _MAX_NAMES} more"
    return reached, [
        f"{step.name}: {len(left_out)} of {len(layers)} layers remain uncompressed because no "
        f"calibration input reaches them: {names}"
    ]


def random_outputs(name: str, call: int, like: Tensor, width: int) -> Tensor:
    """Return ``(..., width)`` standard normal numbers, equal for the same layer and call.

    They replace the output of a layer so that differences later in the model are not hidden by
    inactive ReLUs or nearly uniform softmax distributions.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {call}".encode()))
    drawn = torch.randn(*like.shape[:-1], width, generator=generator)
    return drawn.to(like.device, like.dtype)
