"""Where a changed configuration describes the smaller model, it stays a plain checkpoint.

Which of its numbers say how many units there are is tried out: a configuration fits if the model
that it builds, on no device, has the shapes of the smaller one and the same numbers everywhere.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from compression_gates.compression.model.surgery import Layout
from compression_gates.compression.structured.coupling import Coupling
from compression_gates.compression.structured.cutting import layer_at, set_attribute

_MOST_KEYS = 3


@dataclass(frozen=True)
class Plain:
    """How the configuration has to change, and what a model built from it is like.

    Attributes:
        changes: numbers of the configuration by name, and the new ones.
        layout: what is still to be told beside the configuration.
        built: a model of the new configuration and layout, without weights.
    """

    changes: Mapping[str, int]
    layout: Layout
    built: PreTrainedModel

    def adopt(self, model: PreTrainedModel, undo: ExitStack) -> None:
        """Gives ``model`` the new configuration, and its modules the numbers that follow.

        Configurations are replaced and not changed: other models may share the old ones.
        """
        copies: dict[int, PreTrainedConfig] = {}
        for name, module in model.named_modules():
            new = _of_type(self.built.get_submodule(name), int)
            for key, value in list(vars(module).items()):
                if isinstance(value, PreTrainedConfig):
                    if id(value) not in copies:
                        copies[id(value)] = _changed(value, model.config, self.changes)
                    set_attribute(module, key, copies[id(value)], undo)
                elif type(value) is int and new.get(key, value) != value:
                    set_attribute(module, key, new[key], undo)


def find_plain(
    model: PreTrainedModel,
    layout: Layout,
    sizes: Mapping[str, tuple[int, int]],
    units: Sequence[tuple[Coupling, int]],
) -> Plain | None:
    """The configuration of ``model`` once its layers have the given ``(out, in)`` sizes, or None.

    Args:
        layout: how the model differs from its configuration so far.
        units: couplings, and how many units stay of each.
    """
    counts = {(coupling.units, kept) for coupling, kept in units}
    if len(counts) != 1:
        return None
    (old, new), coupling = counts.pop(), units[0][0]
    shapes = _shapes(model, sizes)
    for changes in _choices(model.config, old, new, coupling):
        plain = _built(model, layout, changes)
        if plain is not None and _shapes(plain.built) == shapes and _agree(model, plain.built):
            return plain
    return None


def _choices(
    config: PreTrainedConfig, old: int, new: int, coupling: Coupling
) -> Iterator[dict[str, int]]:
    """Changes to try, the fewest first: of numbers that equal the number of units or of heads,
    then of one that is not given.

    A width divided by the number of heads is no longer that of a head; ``head_dim`` then says so.
    """
    heads = getattr(config, "num_attention_heads", None) or old
    numbers = {
        key: value // old * new
        for key, value in config.to_dict().items()
        if type(value) is int and value in (old, heads) and value % old == 0
    }
    extra = [{}] if coupling.elementwise else [{}, {"head_dim": len(coupling.columns) // heads}]
    for size in range(1, min(len(numbers), _MOST_KEYS) + 1):
        for keys in combinations(numbers, size):
            for head_dim in extra:
                yield {key: numbers[key] for key in keys} | head_dim
    if coupling.elementwise:
        for key, value in config.to_dict().items():
            if value is None:
                yield {key: new}


def _built(model: PreTrainedModel, layout: Layout, changes: Mapping[str, int]) -> Plain | None:
    """A model of the changed configuration, and the part of the layout that it still needs."""
    try:
        config = _changed(model.config, model.config, changes)
        # What a loader makes of it, not what it is: some numbers follow from others.
        config = type(config).from_dict(config.to_dict())
        with torch.device("meta"):
            built = type(model)(config).eval()
    except Exception:  # whatever a configuration has to say against a number
        return None
    modules = dict(built.named_modules())
    if not modules.keys() >= {*layout.resized, *layout.attributes, *layout.factored}:
        return None
    left = Layout(
        {k: s for k, s in layout.resized.items() if s != tuple(layer_at(built, k).weight.shape)},
        {
            name: numbers
            for name, given in layout.attributes.items()
            if (numbers := _still_given(modules[name], given))
        },
        layout.factored,
    )
    left.apply(built)
    return Plain(changes, left, built)


def _still_given(module: nn.Module, given: Mapping[str, int]) -> dict[str, int]:
    return {key: number for key, number in given.items() if getattr(module, key, None) != number}


def _changed(
    config: PreTrainedConfig, main: PreTrainedConfig, changes: Mapping[str, int]
) -> PreTrainedConfig:
    """A copy with the changes, as far as it says what the main one says."""
    new = copy.deepcopy(config)
    for key, value in changes.items():
        if getattr(config, key, None) == getattr(main, key, None):
            setattr(new, key, value)
    return new


def _shapes(
    model: PreTrainedModel, sizes: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters and buffers, where some layers have other sizes."""
    found = {
        name: tuple(tensor.shape)
        for tensors in (model.named_parameters, model.named_buffers)
        for name, tensor in tensors(remove_duplicate=False)
    }
    for name, (rows, columns) in (sizes or {}).items():
        layer = layer_at(model, name)
        found[f"{name}.weight"] = (columns, rows) if layer.transposed else (rows, columns)
        if layer.bias is not None:
            found[f"{name}.bias"] = (rows,)
    return found


def _agree(model: PreTrainedModel, built: PreTrainedModel) -> bool:
    """Whether both have the same modules, and these the same scales and rates.

    Sizes are taken over; a scale that follows from a size would show that it means another.
    """
    modules = dict(model.named_modules())
    others = dict(built.named_modules())
    return modules.keys() == others.keys() and all(
        _of_type(modules[name], float) == _of_type(other, float) for name, other in others.items()
    )


def _of_type(module: nn.Module, kind: type) -> dict[str, int | float]:
    return {key: value for key, value in vars(module).items() if type(value) is kind}
