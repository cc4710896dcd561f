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
    {"form": "bitmask", "shape": [out, in], "values": number, "transposed": bool}

and in place of ``PARAMETER`` the files hold ``PARAMETER_packed``, ``PARAMETER_scales``,
``PARAMETER_zeros`` or ``PARAMETER_bitmask``, ``PARAMETER_values`` (see
:mod:`compression.packing`). ``transposed`` says that the module wants ``(in, out)``.

Importing this module teaches the format to transformers: ``from_pretrained`` then loads it, with
weights decoded to the values that were computed with.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from compression.errors import CompressionError
from compression.low_rank.factors import LowRank
from compression.packing import from_bitmask, grid_of, packed_shapes, unpack
from compression.quantization.activations import round_inputs_of

METHOD = "compression-gates"
VERSION = 1


@dataclass
class Layout:
    """How a compressed model differs from the one that its configuration describes.

    Attributes:
        resized: ``(out, in)`` of linear layers that became smaller, by module.
        attributes: numbers that modules keep of their own size, by module and name.
        factored: ranks of the layers that became two, by module.
    """

    resized: dict[str, tuple[int, int]] = field(default_factory=dict)
    attributes: dict[str, dict[str, int]] = field(default_factory=dict)
    factored: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.resized or self.attributes or self.factored)

    def apply(self, model: nn.Module) -> None:
        """Gives ``model`` this layout; the weights of what changes are then of no meaning."""
        for name, (rows, columns) in self.resized.items():
            module = model.get_submodule(name)
            set_module(model, name, resized_like(module, rows, columns))
        for name, numbers in self.attributes.items():
            module = model.get_submodule(name)
            for key, number in numbers.items():
                if type(getattr(module, key, None)) is not int or type(number) is not int:
                    raise CompressionError(f"{name}.{key} = {number!r} is no size of the module")
                setattr(module, key, number)
        for name, rank in self.factored.items():
            set_module(model, name, factored_like(model.get_submodule(name), rank))


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts ``module`` in the place called ``name``."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def resized_like(module: nn.Module, rows: int, columns: int) -> nn.Module:
    """An empty linear layer of the same kind, on the same device and in the same dtype."""
    with torch.device("meta"):
        if isinstance(module, Conv1D):
            empty = Conv1D(rows, columns)
        else:
            empty = nn.Linear(columns, rows, bias=module.bias is not None)
    return _like(empty, module)


def factored_like(module: nn.Module, rank: int) -> LowRank:
    """Two empty factors in place of a linear layer."""
    weight = module.weight
    rows, columns = weight.T.shape if isinstance(module, Conv1D) else weight.shape
    with torch.device("meta"):
        empty = LowRank(columns, rows, rank, module.bias is not None)
    return _like(empty, module)


def _like(empty: nn.Module, module: nn.Module) -> nn.Module:
    """``empty``, on the meta device, where ``module`` is and in its dtype; nothing is drawn."""
    return empty.to(module.weight.dtype).to_empty(device=module.weight.device)


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
    delattr(module, key)
    for part, (shape, kind) in _stored_shapes(stored).items():
        empty = torch.empty(*shape, dtype=kind or dtype, device="meta")
        module.register_buffer(f"{key}_{part}", empty)
    # Everything in them is in the checkpoint; an initialisation would look for the parameter.
    while not isinstance(module, PreTrainedModel):
        module._is_hf_initialized = True
        name = name.rpartition(".")[0]
        module = model.get_submodule(name.rpartition(".")[0])


def _stored_shapes(
    stored: Mapping[str, object],
) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
    """Shape and dtype of each tensor of a stored parameter; None is the model's own dtype."""
    *experts, rows, columns = stored["shape"]
    if stored["form"] == "bitmask":
        return {
            "bitmask": ((-(-rows * columns // 8),), torch.uint8),
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
    *experts, rows, columns = stored["shape"]
    if experts:
        slices = [{k: t[e] for k, t in parts.items()} for e in range(experts[0])]
        weight = torch.stack([_decoded(part, stored, rows, columns) for part in slices])
    else:
        weight = _decoded(parts, stored, rows, columns)
    if stored["transposed"]:
        weight = weight.mT.contiguous()
    module.register_parameter(key, nn.Parameter(weight, requires_grad=False))


def _decoded(
    parts: dict[str, Tensor], stored: Mapping[str, object], rows: int, columns: int
) -> Tensor:
    if stored["form"] == "bitmask":
        return from_bitmask(parts, rows, columns)
    return unpack(parts, grid_of(stored), columns).dequantized()


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
        if version != VERSION or unknown:
            raise CompressionError(
                f"this checkpoint is of version {version} of the format {METHOD}"
                f"{' with ' + ', '.join(unknown) if unknown else ''}; version {VERSION} is known"
            )
        self.quant_method = METHOD
        self.version = version
        self.resized = resized or {}
        self.attributes = attributes or {}
        self.factored = factored or {}
        self.weights = weights or {}
        self.activations = activations or {}

    @property
    def layout(self) -> Layout:
        resized = {name: (int(rows), int(cols)) for name, (rows, cols) in self.resized.items()}
        return Layout(resized, self.attributes, self.factored)


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
            _hide(model, name, stored, model.dtype)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs) -> None:
        config = self.quantization_config
        for name, stored in config.weights.items():
            _reveal(model, name, stored)
        for name, kind in config.activations.items():
            round_inputs_of(model.get_submodule(name), kind)
