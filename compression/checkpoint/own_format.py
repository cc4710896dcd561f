"""The project's own checkpoint format, for models that neither a plain checkpoint nor
compressed-tensors can represent. It consists of safetensors and JSON; loading executes no code of
the checkpoint.

The directory is a Hugging Face checkpoint whose ``config.json`` has this ``quantization_config``::

    "quant_method": "compression-gates"
    "version": 1
    "resized": {MODULE: [out, in]}          new shapes of smaller linear layers
    "attributes": {MODULE: {NAME: number}}  new values of size attributes of modules
    "factored": {MODULE: rank}              layers with two factors (MODULE.first, MODULE.second)
    "weights": {MODULE.PARAMETER: {...}}    how a parameter is stored, see below
    "activations": {MODULE: "int8"}         layers whose inputs are quantized token by token

A stored parameter is one of::

    {"form": "packed", "shape": [experts, out, in] or [out, in], "scales": [rows, groups],
     "transposed": bool, "grid": "uniform", "bits": 4, "symmetric": true}
    {"form": "bitmask", "shape": [experts, out, in] or [out, in], "values": number,
     "transposed": bool}

and in place of ``PARAMETER`` the files contain ``PARAMETER_packed``, ``PARAMETER_scales``,
``PARAMETER_zeros`` or ``PARAMETER_bitmask``, ``PARAMETER_values`` (see
:mod:`compression.checkpoint.packing`). ``transposed``: the module's parameter is ``(in, out)``.

Importing this module registers the format with transformers. ``from_pretrained`` then decodes the
weights to exactly the values of the compressed model.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from compression_gates.compression.checkpoint.own_format_check import (
    check_activations,
    check_parts,
    check_stored,
)
from compression_gates.compression.checkpoint.packing import (
    from_bitmask,
    grid_of,
    packed_shapes,
    unpack,
)
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.surgery import Layout
from compression_gates.compression.quantization.activations import round_inputs_of

METHOD = "compression-gates"
VERSION = 1
TABLES = ("resized", "attributes", "factored", "weights", "activations")


@contextmanager
def stored_as(model: nn.Module, tensors: Mapping[str, Mapping[str, Tensor]]) -> Iterator[None]:
    """Temporarily replace each parameter in ``tensors`` by the given buffers."""
    parameters = {name: model.get_parameter(name) for name in tensors}
    try:
        for name, parts in tensors.items():
            module, key = _owner(model, name)
            delattr(module, key)
            for part, tensor in parts.items():
                module.register_buffer(part, tensor)
        yield
    finally:
        for name, parameter in parameters.items():
            module, key = _owner(model, name)
            for part in tensors[name]:
                module._buffers.pop(part, None)
            module.register_parameter(key, parameter)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    module, _, key = name.rpartition(".")
    return model.get_submodule(module), key


def _to_buffers(
    model: nn.Module, name: str, stored: Mapping[str, object], dtype: torch.dtype
) -> None:
    """Replace a parameter of a model that is being loaded by empty buffers."""
    module, key = _owner(model, name)
    # The weight initialization of transformers still reads the parameter, also to initialize
    # buffers that are not in the checkpoint. The flag excludes the parameter from initialization.
    hidden = getattr(module, key).data
    hidden._is_hf_initialized = True
    delattr(module, key)
    module.__dict__[key] = hidden
    for part, (shape, stored_dtype) in _stored_shapes(stored).items():
        empty = torch.empty(*shape, dtype=stored_dtype or dtype, device="meta")
        module.register_buffer(f"{key}_{part}", empty)


def _stored_shapes(
    stored: Mapping[str, object],
) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
    """Return shape and dtype of each tensor of a stored parameter; None is the model's dtype."""
    *experts, rows, columns = stored["shape"]
    if stored["form"] == "bitmask":
        return {
            "bitmask": ((-(-math.prod(stored["shape"]) // 8),), torch.uint8),
            "values": ((stored["values"],), None),
        }
    shapes = packed_shapes(grid_of(stored), rows, columns, tuple(stored["scales"]))
    return {part: ((*experts, *shape), dtype) for part, (shape, dtype) in shapes.items()}


def _from_buffers(model: nn.Module, name: str, stored: Mapping[str, object]) -> None:
    """Replace the buffers of a stored parameter by the decoded parameter."""
    module, key = _owner(model, name)
    prefix = f"{key}_"
    parts = {
        part.removeprefix(prefix): module._buffers.pop(part)
        for part in list(module._buffers)
        if part.startswith(prefix)
    }
    check_parts(name, stored, parts)
    if stored["form"] == "bitmask":
        weight = from_bitmask(parts, stored["shape"])
    else:
        weight = _unpacked(parts, stored)
    if stored["transposed"]:
        weight = weight.mT.contiguous()
    weight = weight.view(module.__dict__[key].shape)
    del module.__dict__[key]
    module.register_parameter(key, nn.Parameter(weight, requires_grad=False))


def _unpacked(parts: dict[str, Tensor], stored: Mapping[str, object]) -> Tensor:
    *experts, _, columns = stored["shape"]
    grid = grid_of(stored)
    if not experts:
        return unpack(parts, grid, columns).dequantized()
    slices = [{part: t[e] for part, t in parts.items()} for e in range(experts[0])]
    return torch.stack([unpack(expert, grid, columns).dequantized() for expert in slices])


@register_quantization_config(METHOD)
class OwnFormatConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a checkpoint in the project's own format."""

    def __init__(self, version: int = VERSION, **tables: dict | None):
        tables.pop("quant_method", None)
        unknown = [name for name in tables if name not in TABLES]
        if type(version) is not int or version != VERSION or unknown:
            raise CompressionError(
                f"this checkpoint has version {version} of the format {METHOD}"
                f"{' with ' + ', '.join(unknown) if unknown else ''}; only version {VERSION} is "
                "supported"
            )
        for name in TABLES:
            table = tables.get(name) or {}
            if not isinstance(table, dict):
                raise CompressionError(f"quantization_config: {name} is not a table")
            setattr(self, name, table)
        self.quant_method = METHOD
        self.version = version

    @property
    def layout(self) -> Layout:
        return Layout(
            {name: tuple(sizes) for name, sizes in self.resized.items()},
            self.attributes,
            self.factored,
        )


@register_quantizer(METHOD)
class OwnFormatQuantizer(HfQuantizer):
    """Load a checkpoint in the project's own format."""

    requires_calibration = True
    is_trainable = False

    def is_serializable(self) -> bool:
        return False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs) -> None:
        config = self.quantization_config
        config.layout.apply(model)
        for name, stored in config.weights.items():
            check_stored(model, name, stored)
        for name, stored in config.weights.items():
            _to_buffers(model, name, stored, model.dtype)
        for name, kind in config.activations.items():
            check_activations(model, name, kind)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs) -> None:
        config = self.quantization_config
        for name, stored in config.weights.items():
            _from_buffers(model, name, stored)
        for name, kind in config.activations.items():
            round_inputs_of(model.get_submodule(name), kind)
