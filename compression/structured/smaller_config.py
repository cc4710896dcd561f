"""Finds a configuration that describes a smaller model, so that its checkpoint needs no layout.

The integers of the configuration to change are found by trial. A configuration fits if the model
that is built from it on the meta device has the shapes of the smaller model and the same float
attributes.
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
"""Largest number of integers of a configuration that are changed together."""


@dataclass(frozen=True)
class SmallerConfig:
    """The changes of a configuration, and a model that is built from the result.

    Attributes:
        changes: new values of integers of the configuration, by name.
        layout: the remaining differences from the configuration.
        built: a model of the new configuration and layout on the meta device.
    """

    changes: Mapping[str, int]
    layout: Layout
    built: PreTrainedModel

    def adopt(self, model: PreTrainedModel, undo: ExitStack) -> None:
        """Change the configuration and integer attributes of ``model`` until ``undo`` is closed.

        Configurations are copied, because other models may share them.
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


def find_config(
    model: PreTrainedModel,
    layout: Layout,
    sizes: Mapping[str, tuple[int, int]],
    units: Sequence[tuple[Coupling, int]],
) -> SmallerConfig | None:
    """Return a configuration for the model after its layers are resized, or None.

    Args:
        model: the model before its layers are resized.
        layout: how the model differs from its present configuration.
        sizes: the new shape ``(out, in)`` of each resized layer, by name.
        units: couplings, each with the number of units that are kept.
    """
    counts = {(coupling.units, kept) for coupling, kept in units}
    if len(counts) != 1:
        return None
    (old, new), coupling = counts.pop(), units[0][0]
    shapes = _shapes(model, sizes)
    for changes in _candidate_changes(model.config, old, new, coupling):
        smaller = _build(model, layout, changes)
        if smaller and _shapes(smaller.built) == shapes and _floats_agree(model, smaller.built):
            return smaller
    return None


def _candidate_changes(
    config: PreTrainedConfig, old: int, new: int, coupling: Coupling
) -> Iterator[dict[str, int]]:
    """Yield changes to try, the fewest first.

    They are changes of integers that equal the number of units or of heads, and then of a value
    that is None. With fewer heads, ``head_dim`` may have to be set, because the width divided by
    the number of heads is no longer the width of a head.
    """
    heads = getattr(config, "num_attention_heads", None) or old
    integers = {
        key: value // old * new
        for key, value in config.to_dict().items()
        if type(value) is int and value in (old, heads) and value % old == 0
    }
    extra = [{}] if coupling.elementwise else [{}, {"head_dim": len(coupling.columns) // heads}]
    for size in range(1, min(len(integers), _MOST_KEYS) + 1):
        for keys in combinations(integers, size):
            for head_dim in extra:
                yield {key: integers[key] for key in keys} | head_dim
    if coupling.elementwise:
        for key, value in config.to_dict().items():
            if value is None:
                yield {key: new}


def _build(
    model: PreTrainedModel, layout: Layout, changes: Mapping[str, int]
) -> SmallerConfig | None:
    """Return the changed configuration with the part of the layout that it needs, or None."""
    try:
        config = _changed(model.config, model.config, changes)
        # Loading the configuration recomputes the integers that depend on others.
        config = type(config).from_dict(config.to_dict())
        with torch.device("meta"):
            built = type(model)(config).eval()
    except Exception:  # the configuration or the model refuses a value
        return None
    modules = dict(built.named_modules())
    if not modules.keys() >= {*layout.resized, *layout.attributes, *layout.factored}:
        return None
    attributes = {
        name: {k: v for k, v in values.items() if getattr(modules[name], k, None) != v}
        for name, values in layout.attributes.items()
    }
    remaining = Layout(
        {k: s for k, s in layout.resized.items() if s != tuple(layer_at(built, k).weight.shape)},
        {name: values for name, values in attributes.items() if values},
        layout.factored,
    )
    remaining.apply(built)
    return SmallerConfig(changes, remaining, built)


def _changed(
    config: PreTrainedConfig, main: PreTrainedConfig, changes: Mapping[str, int]
) -> PreTrainedConfig:
    """Return a copy with those changes whose old value is the same in the main configuration."""
    new = copy.deepcopy(config)
    for key, value in changes.items():
        if getattr(config, key, None) == getattr(main, key, None):
            setattr(new, key, value)
    return new


def _shapes(
    model: PreTrainedModel, sizes: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters and buffers, with ``sizes`` for the given layers."""
    shapes = {
        name: tuple(tensor.shape)
        for tensors in (model.named_parameters, model.named_buffers)
        for name, tensor in tensors(remove_duplicate=False)
    }
    for name, (rows, columns) in (sizes or {}).items():
        layer = layer_at(model, name)
        shapes[f"{name}.weight"] = (columns, rows) if layer.transposed else (rows, columns)
        if layer.bias is not None:
            shapes[f"{name}.bias"] = (rows,)
    return shapes


def _floats_agree(model: PreTrainedModel, built: PreTrainedModel) -> bool:
    """Return whether both have the same modules with the same float attributes.

    A float, such as the scale of attention, differs if it was derived from a changed integer.
    """
    modules = dict(model.named_modules())
    others = dict(built.named_modules())
    return modules.keys() == others.keys() and all(
        _of_type(modules[name], float) == _of_type(other, float) for name, other in others.items()
    )


def _of_type(module: nn.Module, kind: type) -> dict[str, int | float]:
    return {key: value for key, value in vars(module).items() if type(value) is kind}
