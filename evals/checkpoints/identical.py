"""Whether two checkpoints have identical weights, and whether an adapter has no effect."""

from collections.abc import Iterable
from pathlib import Path

from compression_gates.evals.checkpoints.checkpoint import ADAPTER, ADAPTER_WEIGHTS, Checkpoint
from compression_gates.evals.checkpoints.files import json_object, weight_files
from compression_gates.evals.checkpoints.tensors import StoredTensor, headers, is_zero, same_bytes
from compression_gates.evals.errors import EvalError


def same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    """Return whether two checkpoints have identical tensors under the same names.

    The tensors may be split into files differently. Their values are read only if all names, dtypes
    and shapes agree, and only up to the first difference. GGUF files are compared byte by byte. An
    adapter has the weights of its base only if it has no effect. Weights that cannot be read are
    not the same.
    """
    for adapted, side in ((one, other), (other, one)):
        if adapted.base and not side.base and has_no_effect(adapted.path):
            return same_weights(adapted.base, side)
    if one.form != other.form or bool(one.base) != bool(other.base):
        return False
    if (one.path.resolve(), one.file) == (other.path.resolve(), other.file):
        return True
    if one.base and other.base and not same_weights(one.base, other.base):
        return False
    try:
        if one.file or other.file:
            files = [side.path / side.file for side in (one, other)]
            return same_bytes(*(StoredTensor(f, "", (), 0, f.stat().st_size) for f in files))
        tensors, others = (_tensors(weight_files(side.path)) for side in (one, other))
    except (EvalError, OSError, ValueError):
        return False
    if not tensors or tensors.keys() != others.keys():
        return False
    return all(same_bytes(tensors[key], others[key]) for key in tensors)


def _tensors(files: Iterable[Path]) -> dict[tuple, StoredTensor]:
    """Return all tensors by name, dtype and shape."""
    return {
        (name, tensor.dtype, tensor.shape): tensor
        for file in files
        for name, tensor in headers(file).items()
    }


def has_no_effect(adapter: Path) -> bool:
    """Return whether a LoRA adapter does not change its base.

    This is so if its scale is 0, or if one factor of every pair is 0. An adapter that cannot be
    read is assumed to have an effect.
    """
    try:
        config = json_object(adapter / ADAPTER)
        tensors = headers(adapter / ADAPTER_WEIGHTS)
    except (EvalError, OSError, ValueError):
        return False
    factors: dict[str, list[bool]] = {}
    for name, tensor in tensors.items():
        layer, is_factor, _ = name.partition(".lora_")
        if config.get("peft_type") != "LORA" or not is_factor or "lora_magnitude" in name:
            return False
        factors.setdefault(layer, []).append(is_zero(tensor))
    unscaled = config.get("lora_alpha") == 0 and not config.get("alpha_pattern")
    return bool(factors) and (unscaled or all(any(zeros) for zeros in factors.values()))
