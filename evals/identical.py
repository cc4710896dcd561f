"""Whether two checkpoints hold the same weights, bit by bit, whatever files they are split into,
and whether an adapter adds nothing."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from evals.checkpoint import ADAPTER, ADAPTER_WEIGHTS, Checkpoint, json_object, weight_files
from evals.errors import EvalError

_CHUNK = 1 << 22
Tensor = tuple[Path, int, int]
"""The file of a tensor, and where its bytes begin and end."""


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
            return _same_bytes(*((file, 0, file.stat().st_size) for file in files))
        headers = [_tensors(weight_files(side.path)) for side in (one, other)]
    except (EvalError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if not headers[0] or headers[0].keys() != headers[1].keys():
        return False
    return all(_same_bytes(headers[0][key], headers[1][key]) for key in headers[0])


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
        factors.setdefault(layer, []).append(_is_zero(*place))
    unscaled = described.get("lora_alpha") == 0 and not described.get("alpha_pattern")
    return bool(factors) and (unscaled or all(any(zeros) for zeros in factors.values()))


def _is_zero(file: Path, begin: int, end: int) -> bool:
    return not any(chunk.strip(b"\0") for chunk in _chunks(file, begin, end))


def _tensors(files: Iterable[Path]) -> dict[tuple, Tensor]:
    """Every tensor by name, type and shape: a safetensors file is the length of its header in 8
    bytes, the header in JSON, and the tensors' bytes."""
    found = {}
    for file in files:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, file.stat().st_size)))
        for name, told in header.items():
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in told["data_offsets"])
                found[name, told["dtype"], tuple(told["shape"])] = (file, begin, end)
    return found


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    if one[2] - one[1] != other[2] - other[1]:
        return False
    return all(a == b for a, b in zip(_chunks(*one), _chunks(*other), strict=True))


def _chunks(file: Path, begin: int, end: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        stream.seek(begin)
        for start in range(begin, end, _CHUNK):
            yield stream.read(min(_CHUNK, end - start))
