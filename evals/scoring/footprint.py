"""Size and sparsity of the loaded weights."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compression_gates.evals.models.engine import has_pattern
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.models.loading_checks import is_plain

PATTERNS = ((2, 4), (4, 8))
"""N:M patterns: at most N of M consecutive weights are not zero."""
_AUXILIARY = ("_scale", "_shape", "_packed", "_zero_point", "_g_idx")
"""Endings of parameters that describe a quantized weight and are not counted themselves."""
_TRANSPOSED_EXPERTS = ("Llama4TextExperts",)
"""Classes whose experts are stored as ``(experts, in, out)`` without an ``is_transposed`` flag."""


def linear_weights(model: PreTrainedModel) -> Iterator[torch.Tensor]:
    """Yield the weights ``(out, in)`` of the linear layers of the backbone, shared ones once.

    A layer is a :class:`torch.nn.Linear`, a ``Conv1D`` of GPT-2, or one expert of a mixture, which
    is a slice of a parameter ``(experts, out, in)`` in transformers. Quantized weights are left
    out.
    """
    seen = set()
    for module in model.base_model.modules():
        for parameter, transposed in _linear_parameters(module):
            if id(parameter) in seen or not is_plain(parameter) or parameter.is_meta:
                continue
            seen.add(id(parameter))
            if parameter.is_floating_point() and parameter.element_size() > 1:
                weights = parameter.mT if transposed else parameter
                yield from weights if weights.ndim == 3 else (weights,)


def _linear_parameters(module: nn.Module) -> Iterator[tuple[torch.Tensor, bool]]:
    """Yield the weights of a linear module, and whether they are stored as ``(in, out)``."""
    if isinstance(module, nn.Linear | Conv1D):
        weight = getattr(module, "weight", None)  # quantized layers may have none
        if weight is not None:
            yield weight, isinstance(module, Conv1D)
        return
    default = type(module).__name__ in _TRANSPOSED_EXPERTS
    for parameter in module.parameters(recurse=False):
        if parameter.ndim == 3 and len(parameter) == getattr(module, "num_experts", None):
            yield parameter, bool(getattr(module, "is_transposed", default))


def weights_digest(model: nn.Module, vocabulary: int | None = None) -> str:
    """Return a hash of the names, shapes and values of a model's tensors, and of the names of the
    modules whose inputs are changed by hooks.

    Two models with the same weights have the same hash, however these are stored (sharded, packed,
    merged), and also if one of them has a wider dtype.

    Args:
        model: a loaded model.
        vocabulary: number of rows of the embedding and of the output layer that stand for a token;
            further rows do not count. None counts all.

    Returns:
        The hash; empty if a tensor is in a library's own packed form or not in memory.
    """
    digest = hashlib.sha256()
    names = _vocabulary_tensors(model) if vocabulary is not None else set()
    for name, tensor in sorted(model.state_dict().items()):
        if not is_plain(tensor) or tensor.is_meta:
            return ""
        tensor = tensor.detach()[:vocabulary] if name in names else tensor.detach()
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        digest.update(f"{name} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    hooked = [name for name, module in model.named_modules() if module._forward_pre_hooks]
    return hashlib.sha256((digest.hexdigest() + " ".join(hooked)).encode()).hexdigest()


def _vocabulary_tensors(model: nn.Module) -> set[str]:
    """Return the names of the tensors with one row for each token."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    return {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if any(module is layer for layer in layers)
        for part in ("weight", "bias")
    }


def footprint(loaded: Loaded) -> dict[str, np.ndarray]:
    """Count the parameters of a loaded model, and the zeros of its linear layers.

    Returns:
        ``parameters``, the number of parameters of the model;
        ``layers``, ``weights`` and ``zeros``, counts over :func:`linear_weights`;
        ``layers_2_4`` and so on for each of :data:`PATTERNS`, the number of layers with this
        pattern along their inputs.
    """
    model = loaded.model
    weights = list(linear_weights(model))
    counts = {
        "parameters": sum(
            parameter.numel()
            for name, parameter in model.named_parameters()
            if not name.endswith(_AUXILIARY)
        ),
        "weights": sum(weight.numel() for weight in weights),
        "zeros": sum(int((weight == 0).sum()) for weight in weights),
        "layers": len(weights),
    }
    for n, m in PATTERNS:
        counts[f"layers_{n}_{m}"] = sum(has_pattern(weight, n, m) for weight in weights)
    return {name: np.array(count) for name, count in counts.items()}
