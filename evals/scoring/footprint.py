"""Size and sparsity of the loaded weights, and whether their stored form is computed with."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.files import weight_files
from compression_gates.evals.checkpoints.formats import PLAIN
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.models.loading_checks import is_plain

PATTERNS = ((2, 4), (4, 8))
"""N:M patterns: at most N of M consecutive weights are not zero."""
_CODES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float8_e4m3fn,
          torch.float8_e5m2)  # fmt: skip
_SAFETENSORS_CODES = ("I8", "U8", "I16", "U16", "I32", "U32", "F8_E4M3", "F8_E5M2",
                      "F8_E8M0", "F4")  # fmt: skip
"""Dtypes of quantized weights, in PyTorch and in safetensors files."""
_AUXILIARY = ("_scale", "_shape", "_packed", "_zero_point", "_g_idx")
"""Endings of parameters that describe a quantized weight and are not counted themselves."""
_TRANSPOSED_EXPERTS = ("Llama4TextExperts",)
"""Classes whose experts are stored as ``(experts, in, out)`` without an ``is_transposed`` flag."""


def has_pattern(weight: torch.Tensor, n: int, m: int) -> bool:
    """Return whether at most ``n`` of every ``m`` consecutive weights of each row are not zero."""
    if weight.shape[1] % m:
        return False
    return bool(((weight != 0).unflatten(1, (-1, m)).sum(-1) <= n).all())


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


def has_quantized_weights(model: nn.Module) -> bool:
    """Return whether a loaded model has weights in a quantized or a library's own packed form."""
    return any(
        tensor.ndim >= 2 and (tensor.dtype in _CODES or not is_plain(tensor))
        for tensor in model.state_dict().values()
    )


def simulated(loaded: Loaded) -> str:
    """Return why the time of a forward pass is not that of the stored form of the weights.

    If the loaded model has quantized weights (torchao, bitsandbytes, GPTQModel and others), kernels
    for them run. If quantized weights or bitmasks are unpacked on loading, dense kernels run
    instead, and if activations are rounded by hooks, Python code runs. Low-rank factors, layers
    with fewer heads or neurons and merged adapters are plain weights, for which dense kernels are
    the right ones.

    Returns:
        The reason; empty if the stored form is what runs.
    """
    source = loaded.checkpoint.base or loaded.checkpoint
    if source.form == PLAIN:
        return ""
    modules = list(loaded.model.modules())
    # compressed-tensors keeps its scheme on the layers that it has unpacked, and wraps their
    # forward pass in a Python function.
    is_wrapped = any(
        hasattr(module, "quantization_scheme") and not has_quantized_weights(module)
        for module in modules
    )
    if is_wrapped or (not has_quantized_weights(loaded.model) and _is_stored_quantized(source)):
        return f"its weights are unpacked on loading, so no kernel for {source.form} runs here"
    if any(module._forward_pre_hooks for module in modules):
        return f"its activations are rounded in Python, so no kernel for {source.form} runs here"
    return ""


def _is_stored_quantized(checkpoint: Checkpoint) -> bool:
    """Return whether the files of a checkpoint contain quantized weights or bitmasks."""
    from safetensors import safe_open

    if checkpoint.file:  # GGUF
        return True
    for file in weight_files(checkpoint.path):
        with safe_open(file, "pt") as stream:
            dtypes = {stream.get_slice(name).get_dtype() for name in list(stream.keys())}
        if not dtypes.isdisjoint(_SAFETENSORS_CODES):
            return True
    return False


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
        pattern along their inputs; ``simulated``, see :func:`simulated`.
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
        "simulated": simulated(loaded),
    }
    for n, m in PATTERNS:
        counts[f"layers_{n}_{m}"] = sum(has_pattern(weight, n, m) for weight in weights)
    return {name: np.array(count) for name, count in counts.items()}
