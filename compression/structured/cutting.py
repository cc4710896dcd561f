"""Removes rows and columns from layers, in a way that can be undone."""

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
    """A coupling and the units that are kept.

    Attributes:
        coupling: the layers from which units are removed.
        kept: the indices of the remaining units, in ascending order.
    """

    coupling: Coupling
    kept: Tensor

    @property
    def name(self) -> str:
        """The name of the consumer."""
        return self.coupling.consumer.name

    @property
    def columns(self) -> Tensor:
        """``(in_features,)``, whether an input channel of the consumer is kept."""
        return torch.isin(self.coupling.columns, self.kept)

    @property
    def rows(self) -> dict[str, Tensor]:
        """``(out_features,)`` by producer name, whether an output channel is kept."""
        coupling = self.coupling
        return {
            layer.name: torch.isin(rows, self.kept)
            for layer, rows in zip(coupling.producers, coupling.rows, strict=True)
        }

    @property
    def tables(self) -> dict[str, Tensor]:
        """``(units,)`` by embedding name, whether a column is kept."""
        return {name: torch.isin(owner, self.kept) for name, owner in self.coupling.tables.items()}


def resize(model: PreTrainedModel, cut: Cut, undo: ExitStack) -> None:
    """Replace the layers of a cut by smaller ones until ``undo`` is closed."""
    for name, rows in cut.rows.items():
        _replace_layer(model, name, undo, rows=rows)
    _replace_layer(model, cut.name, undo, columns=cut.columns)


def resize_tables(model: PreTrainedModel, cuts: Sequence[Cut], undo: ExitStack) -> None:
    """Replace the embeddings of the cuts by smaller ones until ``undo`` is closed."""
    for name, columns in {n: c for cut in cuts for n, c in cut.tables.items()}.items():
        old = model.get_submodule(name)
        weight = old.weight[:, columns]
        new = nn.Embedding(*weight.shape, device="meta", dtype=weight.dtype)
        new.weight = nn.Parameter(weight.clone(), requires_grad=old.weight.requires_grad)
        set_module(model, name, new.train(old.training))
        undo.callback(set_module, model, name, old)


def _replace_layer(
    model: PreTrainedModel,
    name: str,
    undo: ExitStack,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> None:
    """Replace a layer by one with only some rows or columns."""
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
    """Return the module of a given name, a linear layer or an embedding, as a layer."""
    module = model.get_submodule(name)
    return Layer(name, module, transposed=isinstance(module, Conv1D))


def sizes_after(model: PreTrainedModel, cuts: Sequence[Cut]) -> dict[str, tuple[int, int]]:
    """Return the shape ``(out, in)`` after the cuts of every layer and embedding that they change.

    A layer can lose rows in one cut and columns in another.
    """
    sizes: dict[str, tuple[int, int]] = {}

    def size(name: str) -> tuple[int, int]:
        return sizes.get(name, tuple(layer_at(model, name).weight.shape))

    for cut in cuts:
        for name, rows in cut.rows.items():
            sizes[name] = (int(rows.sum()), size(name)[1])
        for name, columns in {cut.name: cut.columns, **cut.tables}.items():
            sizes[name] = (size(name)[0], int(columns.sum()))
    return sizes


def set_attribute(module: nn.Module, key: str, value: object, undo: ExitStack) -> None:
    """Set an attribute of a module until ``undo`` is closed."""
    undo.callback(setattr, module, key, getattr(module, key))
    setattr(module, key, value)
