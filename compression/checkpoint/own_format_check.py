"""Validate the metadata of a checkpoint in the project's own format.

Invalid metadata could decode to wrong weights or allocate excessive memory. Every error names the
parameter.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compression_gates.compression.checkpoint.packing import bits_of, grid_of
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.layers import is_transposed, stack_of
from compression_gates.compression.quantization.activations import FLOAT8, INT8

_PACKED = {"form", "shape", "scales", "transposed", "grid"}
_GRIDS = {"uniform": {"bits", "symmetric"}, "log": {"bits"}, "float8": set()}
_BITMASK = {"form", "shape", "values", "transposed"}


def check_stored(model: nn.Module, name: str, stored: object) -> None:
    """Raise a CompressionError if ``stored`` cannot describe the parameter ``name``."""

    def require(valid: bool, item: str) -> None:
        if not valid:
            raise CompressionError(f"{name}: its description has a wrong {item}: {stored}")

    require(isinstance(stored, Mapping), "type")
    form = stored.get("form")
    require(form in ("packed", "bitmask"), "form")
    grid = stored.get("grid")
    require(form == "bitmask" or grid in _GRIDS, "grid")
    keys = _BITMASK if form == "bitmask" else _PACKED | _GRIDS[grid]
    require(stored.keys() == keys, "set of keys")
    path, _, key = name.rpartition(".")
    try:
        module = model.get_submodule(path)
        parameter = module.get_parameter(key)
    except AttributeError:
        raise CompressionError(f"the checkpoint stores {name}, which the model lacks") from None
    shape = stored["shape"]
    require(isinstance(shape, list) and all(type(size) is int for size in shape), "shape")
    transposed = is_transposed(module, key)
    require(stored["transposed"] is transposed, "transposed")
    matrices = stack_of(module, parameter)
    expected = list(matrices.mT.shape if transposed else matrices.shape)
    require(expected == shape and len(shape) in (2, 3), f"shape (the model expects {expected})")
    if form == "bitmask":
        values = stored["values"]
        require(type(values) is int and 0 <= values <= parameter.numel(), "number of values")
        return
    for setting, type_ in (("bits", int), ("symmetric", bool)):
        require(setting not in keys or type(stored[setting]) is type_, setting)
    require("bits" not in keys or 2 <= stored["bits"] <= 8, "bits")
    scales = stored["scales"]
    require(
        isinstance(scales, list)
        and len(scales) == 2
        and all(type(size) is int and size > 0 for size in scales)
        and scales[0] in (1, shape[-2])
        and shape[-1] % scales[1] == 0,
        "number of scales",
    )


def check_activations(model: nn.Module, name: str, kind: object) -> None:
    """Raise a CompressionError if the inputs of ``name`` cannot be quantized to ``kind``."""
    module = dict(model.named_modules()).get(name)
    if kind not in (INT8, FLOAT8) or not isinstance(module, nn.Linear | Conv1D):
        raise CompressionError(f"{name}: its inputs cannot be quantized to {kind!r}")


def check_parts(name: str, stored: Mapping[str, object], parts: Mapping[str, Tensor]) -> None:
    """Raise a CompressionError if stored tensors do not fit their description."""
    if stored["form"] == "bitmask":
        dtypes = {"bitmask": torch.uint8}
        valid = int(bits_of(parts["bitmask"]).sum()) == stored["values"]
    else:
        dtypes = {"packed": torch.int32, "zeros": torch.uint8}
        scales = parts["scales"]
        valid = bool((scales.isfinite() & (scales > 0)).all())
        if "zeros" in parts:
            valid = valid and int(parts["zeros"].max()) <= grid_of(stored).highest
    for part, tensor in parts.items():
        expected = dtypes.get(part)
        if tensor.dtype != expected if expected else not tensor.is_floating_point():
            raise CompressionError(
                f"{name}_{part} has dtype {tensor.dtype}, expected {expected or 'a floating dtype'}"
            )
    if not valid:
        raise CompressionError(f"{name}: its stored tensors do not fit their description")
