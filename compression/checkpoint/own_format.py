"""The project's own checkpoint format, for what neither a plain checkpoint nor compressed-tensors
can hold. Safetensors and JSON; loading one executes nothing that it brings.

A directory is a Hugging Face checkpoint whose ``config.json`` has this ``quantization_config``::

    "quant_method": "compression-gates"
    "version": 1
    "resized": {MODULE: [out, in]}          linear layers that became smaller
    "attributes": {MODULE: {NAME: number}}  numbers that a module keeps of its own size
    "factored": {MODULE: rank}              layers that became two (MODULE.first, MODULE.second)
    "weights": {MODULE.PARAMETER: {...}}    how a parameter is stored, see below
    "activations": {MODULE: "int8"}         layers that round their inputs token by token

A stored parameter is one of::

    {"form": "packed", "shape": [experts, out, in] or [out, in], "scales": [rows, groups],
     "transposed": bool, "grid": "uniform", "bits": 4, "symmetric": true}
    {"form": "bitmask", "shape": [experts, out, in] or [out, in], "values": number,
     "transposed": bool}

and in place of ``PARAMETER`` the files hold ``PARAMETER_packed``, ``PARAMETER_scales``,
``PARAMETER_zeros`` or ``PARAMETER_bitmask``, ``PARAMETER_values`` (see
:mod:`compression.checkpoint.packing`). ``transposed`` says that the module wants ``(in, out)``.

Importing this module teaches the format to transformers: ``from_pretrained`` then loads it, with
weights decoded to the values that were computed with.
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


@contextmanager
def stored_as(model: nn.Module, tensors: Mapping[str, Mapping[str, Tensor]]) -> Iterator[None]:
    """While it is open, each parameter of ``tensors`` is replaced by buffers, by their names."""
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


def _hide(model: nn.Module, name: str, stored: Mapping[str, object], dtype: torch.dtype) -> None:
    """Replaces a parameter of a model that is being loaded by buffers for its stored form."""
    module, key = _owner(model, name)
    # Initialisations of transformers still ask for the parameter, those of modules around it too,
    # and fill buffers beside it that no checkpoint holds. They leave this one alone.
    hidden = getattr(module, key).data
    hidden._is_hf_initialized = True
    delattr(module, key)
    module.__dict__[key] = hidden
    for part, (shape, kind) in _stored_shapes(stored).items():
        empty = torch.empty(*shape, dtype=kind or dtype, device="meta")
        module.register_buffer(f"{key}_{part}", empty)


def _stored_shapes(
    stored: Mapping[str, object],
) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
    """Shape and dtype of each tensor of a stored parameter; None is the model's own dtype."""
    *experts, rows, columns = stored["shape"]
    if stored["form"] == "bitmask":
        return {
            "bitmask": ((-(-math.prod(stored["shape"]) // 8),), torch.uint8),
            "values": ((stored["values"],), None),
        }
    shapes = packed_shapes(grid_of(stored), rows, columns, tuple(stored["scales"]))
    return {part: ((*experts, *shape), kind) for part, (shape, kind) in shapes.items()}


def _reveal(model: nn.Module, name: str, stored: Mapping[str, object]) -> None:
    """Decodes a stored parameter."""
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
    return torch.stack([unpack(one, grid, columns).dequantized() for one in slices])


@register_quantization_config(METHOD)
class OwnFormatConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a checkpoint in the project's own format."""

    def __init__(
        self,
        version: int = VERSION,
        resized: dict | None = None,
        attributes: dict | None = None,
        factored: dict | None = None,
        weights: dict | None = None,
        activations: dict | None = None,
        **unknown: object,
    ):
        unknown.pop("quant_method", None)
        if type(version) is not int or version != VERSION or unknown:
            raise CompressionError(
                f"this checkpoint is of version {version} of the format {METHOD}"
                f"{' with ' + ', '.join(unknown) if unknown else ''}; version {VERSION} is known"
            )
        tables = dict(resized=resized, attributes=attributes, factored=factored, weights=weights,
                      activations=activations)  # fmt: skip
        for name, table in tables.items():
            if not isinstance(table or {}, dict):
                raise CompressionError(f"quantization_config: {name} is not a table")
            setattr(self, name, table or {})
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
    """Loads a checkpoint in the project's own format."""

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
            _hide(model, name, stored, model.dtype)
        for name, kind in config.activations.items():
            check_activations(model, name, kind)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs) -> None:
        config = self.quantization_config
        for name, stored in config.weights.items():
            _reveal(model, name, stored)
        for name, kind in config.activations.items():
            round_inputs_of(model.get_submodule(name), kind)
