"""Replace layers of a model by smaller or factored ones, and record the changes."""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.low_rank.factors import LowRank


@dataclass
class Layout:
    """Differences of a compressed model from the architecture that its configuration describes.

    Attributes:
        resized: new shape ``(out, in)`` of smaller linear layers, by module.
        attributes: new values of size attributes, by module and attribute.
        factored: rank of factored layers, by module.
    """

    resized: dict[str, tuple[int, int]] = field(default_factory=dict)
    attributes: dict[str, dict[str, int]] = field(default_factory=dict)
    factored: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.resized or self.attributes or self.factored)

    def apply(self, model: nn.Module) -> None:
        """Apply the differences to ``model``. The weights of replaced layers are uninitialized.

        Raises:
            CompressionError: a difference does not fit the model.
        """
        for name, (rows, columns) in self.resized.items():
            module = _linear(model, name)
            shape = _shape(module)
            if not (_within(rows, shape[0]) and _within(columns, shape[1])):
                raise CompressionError(f"{name}: {(rows, columns)} does not fit its shape {shape}")
            set_module(model, name, resized_like(module, rows, columns))
        for name, numbers in self.attributes.items():
            module = _submodule(model, name)
            for key, number in numbers.items():
                size = getattr(module, key, None)
                if type(size) is not int or not _within(number, size):
                    raise CompressionError(f"{name}.{key}: {number!r} is not a valid size")
                setattr(module, key, number)
        for name, rank in self.factored.items():
            module = _linear(model, name)
            if not _within(rank, min(shape := _shape(module))):
                raise CompressionError(f"{name}: rank {rank!r} does not fit its shape {shape}")
            set_module(model, name, factored_like(module, rank))


def _shape(module: nn.Module) -> tuple[int, int]:
    """Return ``(out, in)`` of a linear layer."""
    shape = tuple(module.weight.shape)
    return shape[::-1] if isinstance(module, Conv1D) else shape


def _within(number: object, most: int) -> bool:
    return type(number) is int and 1 <= number <= most


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise CompressionError(f"the checkpoint describes {name}, which the model lacks") from None


def _linear(model: nn.Module, name: str) -> nn.Module:
    module = _submodule(model, name)
    if not isinstance(module, nn.Linear | Conv1D):
        raise CompressionError(f"{name}: the checkpoint changes its shape, but it is not linear")
    return module


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module called ``name``."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def resized_like(module: nn.Module, rows: int, columns: int) -> nn.Module:
    """Return an uninitialized ``(rows, columns)`` layer of the same class, device and dtype."""
    with torch.device("meta"):
        if isinstance(module, Conv1D):
            empty = Conv1D(rows, columns)
        else:
            empty = nn.Linear(columns, rows, bias=module.bias is not None)
    return _like(empty, module)


def factored_like(module: nn.Module, rank: int) -> LowRank:
    """Return two uninitialized factors of a linear layer, of the same device and dtype."""
    rows, columns = _shape(module)
    with torch.device("meta"):
        empty = LowRank(columns, rows, rank, module.bias is not None)
    return _like(empty, module)


def _like(empty: nn.Module, module: nn.Module) -> nn.Module:
    """Move ``empty`` from the meta device, without initialization."""
    return empty.to(module.weight.dtype).to_empty(device=module.weight.device)
