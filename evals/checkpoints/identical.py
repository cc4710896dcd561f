"""Whether two checkpoints hold the same weights, bit by bit, whatever files they are split into,
and whether an adapter adds nothing."""

from collections.abc import Iterable
from pathlib import Path

from compression_gates.evals.checkpoints.checkpoint import ADAPTER, ADAPTER_WEIGHTS, Checkpoint
from compression_gates.evals.checkpoints.files import json_object, weight_files
from compression_gates.evals.checkpoints.tensors import StoredTensor, headers, is_zero, same_bytes
from compression_gates.evals.errors import EvalError


def same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints are one path, or hold the same tensors under the same names.

    Reads headers first, and bytes only where all names, types and shapes agree, up to the first
    difference. Formats other than safetensors are compared file by file; an adapter is its base
    only where it adds nothing. What cannot be read is not the same.
    """
    for adapted, side in ((one, other), (other, one)):
        if adapted.base and not side.base and adds_nothing(adapted.path):
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
            whole = [StoredTensor(file, "", (), 0, file.stat().st_size) for file in files]
            return same_bytes(*whole)
        tensors = [_tensors(weight_files(side.path)) for side in (one, other)]
    except (EvalError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if not tensors[0] or tensors[0].keys() != tensors[1].keys():
        return False
    return all(same_bytes(tensors[0][key], tensors[1][key]) for key in tensors[0])


def _tensors(files: Iterable[Path]) -> dict[tuple, StoredTensor]:
    """Every tensor by name, type and shape."""
    return {
        (name, tensor.dtype, tensor.shape): tensor
        for file in files
        for name, tensor in headers(file).items()
    }


def adds_nothing(adapter: Path) -> bool:
    """Whether a LoRA adapter leaves its base as it is: its scale is 0, or one factor of every pair
    is. What cannot be read adds something."""
    try:
        described = json_object(adapter / ADAPTER)
        tensors = _tensors([adapter / ADAPTER_WEIGHTS])
    except (EvalError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    factors: dict[str, list[bool]] = {}
    for (name, _, _), place in tensors.items():
        layer, is_factor, _ = name.partition(".lora_")
        if described.get("peft_type") != "LORA" or not is_factor or "lora_magnitude" in name:
            return False
        factors.setdefault(layer, []).append(is_zero(place))
    unscaled = described.get("lora_alpha") == 0 and not described.get("alpha_pattern")
    return bool(factors) and (unscaled or all(any(zeros) for zeros in factors.values()))
