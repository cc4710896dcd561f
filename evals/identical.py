"""Whether two checkpoints hold the same weights, bit by bit, whatever files they are split into."""

from pathlib import Path

from evals.checkpoint import Checkpoint
from evals.checkpoints.files import weight_files
from evals.checkpoints.tensors import StoredTensor, headers, same_bytes
from evals.errors import EvalError


def same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints are one path, or hold the same tensors under the same names.

    Reads headers first, and bytes only where all names, types and shapes agree, up to the first
    difference. Formats other than safetensors are compared file by file; an adapter is never
    its base. What cannot be read is not the same.
    """
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
        tensors = [_tensors(side.path) for side in (one, other)]
    except (EvalError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if not tensors[0] or tensors[0].keys() != tensors[1].keys():
        return False
    return all(same_bytes(tensors[0][key], tensors[1][key]) for key in tensors[0])


def _tensors(path: Path) -> dict[tuple, StoredTensor]:
    """Every tensor by name, type and shape."""
    return {
        (name, tensor.dtype, tensor.shape): tensor
        for file in weight_files(path)
        for name, tensor in headers(file).items()
    }
