"""Layers of another size or kind in the place of a model's own, and the record of it."""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.low_rank.factors import LowRank


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
            module = _linear(model, name)
            most = module.weight.T.shape if isinstance(module, Conv1D) else module.weight.shape
            if not (_within(rows, most[0]) and _within(columns, most[1])):
                raise CompressionError(f"{name}: {rows} x {columns} is no smaller than {most}")
            set_module(model, name, resized_like(module, rows, columns))
        for name, numbers in self.attributes.items():
            module = _submodule(model, name)
            for key, number in numbers.items():
                own = getattr(module, key, None)
                if type(own) is not int or not _within(number, own):
                    raise CompressionError(f"{name}.{key} = {number!r} is no size of the module")
                setattr(module, key, number)
        for name, rank in self.factored.items():
            module = _linear(model, name)
            if not _within(rank, min(module.weight.shape)):
                raise CompressionError(f"{name}: {rank!r} is no rank of two factors of it")
            set_module(model, name, factored_like(module, rank))


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
        raise CompressionError(f"the checkpoint describes {name} as a linear layer, which it isn't")
    return module


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
