"""Takes rows and columns out of layers, and can put everything back."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compression_gates.compression.model.layers import Layer
from compression_gates.compression.model.surgery import resized_like, set_module
from compression_gates.compression.structured.coupling import Coupling


@dataclass(frozen=True, eq=False)
class Cut:
    """A coupling and the units that stay, in their order."""

    coupling: Coupling
    kept: Tensor

    @property
    def name(self) -> str:
        return self.coupling.consumer.name

    @property
    def columns(self) -> Tensor:
        """``(in,)`` whether an input channel of the consumer stays."""
        return torch.isin(self.coupling.columns, self.kept)

    @property
    def rows(self) -> dict[str, Tensor]:
        """``(out,)`` by producer: whether an output channel stays."""
        coupling = self.coupling
        return {
            layer.name: torch.isin(rows, self.kept)
            for layer, rows in zip(coupling.producers, coupling.rows, strict=True)
        }

    @property
    def tables(self) -> dict[str, Tensor]:
        """``(units,)`` by embedding: whether a column stays."""
        return {name: torch.isin(owner, self.kept) for name, owner in self.coupling.tables.items()}


def resize(model: PreTrainedModel, cut: Cut, undo: ExitStack) -> None:
    """Puts smaller layers in the place of a cut's own, until it is undone."""
    for name, rows in cut.rows.items():
        _put_smaller(model, name, undo, rows=rows)
    _put_smaller(model, cut.name, undo, columns=cut.columns)


def resize_tables(model: PreTrainedModel, cuts: Sequence[Cut], undo: ExitStack) -> None:
    """Puts embeddings with fewer columns in the place of the cuts' own, until it is undone."""
    for name, columns in {n: c for cut in cuts for n, c in cut.tables.items()}.items():
        old = model.get_submodule(name)
        weight = old.weight[:, columns]
        new = nn.Embedding(*weight.shape, device="meta", dtype=weight.dtype)
        new.weight = nn.Parameter(weight.clone(), requires_grad=old.weight.requires_grad)
        set_module(model, name, new.train(old.training))
        undo.callback(set_module, model, name, old)


def _put_smaller(
    model: PreTrainedModel,
    name: str,
    undo: ExitStack,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> None:
    """Puts a layer with some rows or columns in the place of the whole one."""
    old = layer_at(model, name)
    weight = old.weight
    weight = weight if rows is None else weight[rows]
    weight = weight if columns is None else weight[:, columns]
    module = resized_like(old.module, *weight.shape).train(old.module.training)
    new = Layer(name, module, transposed=old.transposed)
    new.weight.copy_(weight)
    if old.bias is not None:
        new.bias.copy_(old.bias if rows is None else old.bias[rows])
    for key, parameter in module.named_parameters():
        parameter.requires_grad_(getattr(old.module, key).requires_grad)
    set_module(model, name, module)
    undo.callback(set_module, model, name, old.module)


def layer_at(model: PreTrainedModel, name: str) -> Layer:
    module = model.get_submodule(name)
    return Layer(name, module, transposed=isinstance(module, Conv1D))


def sizes_after(model: PreTrainedModel, cuts: Sequence[Cut]) -> dict[str, tuple[int, int]]:
    """``(out, in)`` of every layer and embedding behind the cuts. A layer may lose rows and
    columns."""
    found: dict[str, tuple[int, int]] = {}

    def size(name: str) -> tuple[int, int]:
        return found.get(name, tuple(layer_at(model, name).weight.shape))

    for cut in cuts:
        for name, rows in cut.rows.items():
            found[name] = (int(rows.sum()), size(name)[1])
        found[cut.name] = (size(cut.name)[0], int(cut.columns.sum()))
        for name, columns in cut.tables.items():
            found[name] = (size(name)[0], int(columns.sum()))
    return found


def set_attribute(module: nn.Module, key: str, value: object, undo: ExitStack) -> None:
    """Sets an attribute until it is undone."""
    undo.callback(setattr, module, key, getattr(module, key))
    setattr(module, key, value)
