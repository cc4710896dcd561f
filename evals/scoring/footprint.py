"""What the loaded weights are: how many, how many zeros, which N:M patterns hold, and whether they
are computed with in the form that is stored."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compression_gates.evals.checkpoints.files import weight_files
from compression_gates.evals.checkpoints.formats import PLAIN
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.models.loading_checks import is_plain

PATTERNS = ((2, 4), (4, 8))
_CODES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float8_e4m3fn,
          torch.float8_e5m2)  # fmt: skip
_STORED_CODES = ("I8", "U8", "I16", "U16", "I32", "U32", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4")
_AUXILIARY = ("_scale", "_shape", "_packed", "_zero_point", "_g_idx")
_TRANSPOSED_EXPERTS = ("Llama4TextExperts",)
"""Experts that are stored ``(experts, in, out)`` and do not say so."""


def holds_pattern(weight: torch.Tensor, n: int, m: int) -> bool:
    """Whether at most ``n`` of every ``m`` consecutive weights of each row are not zero."""
    if weight.shape[1] % m:
        return False
    return bool(((weight != 0).unflatten(1, (-1, m)).sum(-1) <= n).all())


def linear_weights(model: PreTrainedModel) -> Iterator[torch.Tensor]:
    """Weights ``(out, in)`` of the linear layers inside the backbone, each shared tensor once.

    A layer is an :class:`torch.nn.Linear`, a ``Conv1D`` of GPT-2, or one expert of a mixture, which
    transformers keeps as a slice of a parameter ``(experts, out, in)``.
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
    """Parameters that a module multiplies with, and whether their inputs run along the rows."""
    if isinstance(module, nn.Linear | Conv1D):
        weight = getattr(module, "weight", None)  # quantized layers may have none
        if weight is not None:
            yield weight, isinstance(module, Conv1D)
        return
    unnamed = type(module).__name__ in _TRANSPOSED_EXPERTS
    for parameter in module.parameters(recurse=False):
        if parameter.ndim == 3 and len(parameter) == getattr(module, "num_experts", None):
            yield parameter, bool(getattr(module, "is_transposed", unnamed))


def holds_codes(model: nn.Module) -> bool:
    """Whether the model computes with weights as they are stored, in codes and not in numbers."""
    return any(
        tensor.ndim >= 2 and (tensor.dtype in _CODES or not is_plain(tensor))
        for tensor in model.state_dict().values()
    )


def simulated(loaded: Loaded) -> str:
    """Why a forward pass says nothing of the speed of the form that is stored.

    Kernels for codes run where the loaded model holds codes (torchao, bitsandbytes, GPTQModel and
    others). Where codes or bitmasks are unpacked on loading, dense kernels run in their place, and
    where activations are rounded by hooks, Python does. Low-rank factors, layers with fewer heads
    or neurons and merged adapters are plain weights, which dense kernels are right for.

    Returns:
        The reason, or nothing where the form that is stored is what runs.
    """
    source = loaded.checkpoint.base or loaded.checkpoint
    if source.form == PLAIN:
        return ""
    modules = list(loaded.model.modules())
    # compressed-tensors leaves its scheme, and a Python function around each forward pass, on the
    # layers that it has unpacked.
    wrapped = any(hasattr(m, "quantization_scheme") and not holds_codes(m) for m in modules)
    if wrapped or (not holds_codes(loaded.model) and (source.file or _stores_codes(source.path))):
        return f"its weights are unpacked on loading, so no kernel for {source.form} runs here"
    if any(module._forward_pre_hooks for module in modules):
        return f"its activations are rounded in Python, so no kernel for {source.form} runs here"
    return ""


def _stores_codes(path: Path) -> bool:
    """Whether a checkpoint's files hold tensors of codes or bits."""
    from safetensors import safe_open

    for file in weight_files(path):
        with safe_open(file, "pt") as stream:
            dtypes = {stream.get_slice(name).get_dtype() for name in list(stream.keys())}
        if not dtypes.isdisjoint(_STORED_CODES):
            return True
    return False


def weights_digest(model: nn.Module, vocabulary: int | None = None) -> str:
    """Hash of what a model computes with: names, shapes and values of its tensors, and the modules
    whose inputs are changed by hooks.

    However a checkpoint is stored, merged or unpacked, it is equal for two models with the same
    weights, also where one holds them in a wider type. Empty where a tensor is in a library's own
    packing, or not in memory.

    Args:
        vocabulary: rows of the embedding and of the output layer that the tokenizer has a token
            for; what stands in further rows does not count.
    """
    found = hashlib.sha256()
    rows = _vocabulary_tensors(model) if vocabulary is not None else set()
    for name, tensor in sorted(model.state_dict().items()):
        if not is_plain(tensor) or tensor.is_meta:
            return ""
        tensor = tensor.detach()[:vocabulary] if name in rows else tensor.detach()
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        found.update(f"{name} {tuple(tensor.shape)}\0".encode())
        bits = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(bits.numpy().data)
    changed = [name for name, module in model.named_modules() if module._forward_pre_hooks]
    return hashlib.sha256((found.hexdigest() + " ".join(changed)).encode()).hexdigest()


def _vocabulary_tensors(model: nn.Module) -> set[str]:
    """Names of the tensors with a row for each token."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    return {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if any(module is layer for layer in layers)
        for part in ("weight", "bias")
    }


def footprint(loaded: Loaded) -> dict[str, np.ndarray]:
    """Counts over the weights that the model computes with.

    Returns:
        ``parameters``; over the linear layers inside the backbone ``weights``, ``zeros`` and, for
        each of :data:`PATTERNS`, ``layers_2_4`` and so on, the layers where the pattern holds
        along their inputs; ``layers``, their number; and ``simulated``, see :func:`simulated`.
    """
    model = loaded.model
    weights = list(linear_weights(model))
    own = [p for name, p in model.named_parameters() if not name.endswith(_AUXILIARY)]
    counts = {
        "parameters": sum(parameter.numel() for parameter in own),
        "weights": sum(weight.numel() for weight in weights),
        "zeros": sum(int((weight == 0).sum()) for weight in weights),
        "layers": len(weights),
        "simulated": simulated(loaded),
    }
    for n, m in PATTERNS:
        counts[f"layers_{n}_{m}"] = sum(holds_pattern(weight, n, m) for weight in weights)
    return {name: np.array(count) for name, count in counts.items()}
