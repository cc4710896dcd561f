"""Removes units from a model and verifies that the smaller model computes the same.

The reference is the original model with the removed input channels of the consumers set to zero.
The smaller model must give the same outputs, and each consumer must receive the same inputs when
its producers give the same random outputs. Otherwise all changes are undone.

Modules have integer attributes that depend on the number of units, such as ``num_heads`` or
``split_size``. The attributes to change are found by trial: first none, then the smallest sets with
which the model computes the same.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, combinations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.low_rank.factors import LowRank
from compression_gates.compression.model.surgery import Layout
from compression_gates.compression.structured.cutting import (
    Cut,
    resize,
    resize_tables,
    set_attribute,
    sizes_after,
)
from compression_gates.compression.structured.equivalence import (
    activations_agree,
    probe_activations,
)
from compression_gates.compression.structured.smaller_config import SmallerConfig, find_config

_MOST_ATTRIBUTES = 3
"""Largest number of attributes that are changed together."""


@torch.no_grad()
def shrink(compressed: Compressed, cuts: Sequence[Cut]) -> None:
    """Remove the units that the cuts do not keep, and update the layout of the compressed model.

    The layout describes what the configuration of the smaller model does not.

    Raises:
        RecipeError: units of a layer cannot be removed; the model is then unchanged.
    """
    with ExitStack() as undo:
        compressed.layout = _shrunk(compressed.model, compressed.layout, cuts, undo)
        undo.pop_all()


@torch.no_grad()
def check_shrinks(model: PreTrainedModel, cuts: Sequence[Cut]) -> None:
    """Raise the RecipeErrors of :func:`shrink` without changing the model."""
    with ExitStack() as undo:
        _shrunk(model, Layout(), cuts, undo)


def _shrunk(model: PreTrainedModel, layout: Layout, cuts: Sequence[Cut], undo: ExitStack) -> Layout:
    """Make the cuts until ``undo`` is closed, and return the layout of the smaller model."""
    sizes = sizes_after(model, cuts)
    reference = probe_activations(model, cuts, made=0)
    smaller = find_config(model, layout, sizes, [(cut.coupling, len(cut.kept)) for cut in cuts])
    if smaller is not None and _cut_together(model, cuts, smaller, reference, undo):
        return smaller.layout
    for cut in cuts:
        if cut.tables:
            raise _differs(model, cut)
    changed = _cut_one_by_one(model, cuts, reference, undo)
    attributes = {module: dict(values) for module, values in layout.attributes.items()}
    for module, values in changed.items():
        attributes.setdefault(module, {}).update(values)
    return Layout(layout.resized | _layout_sizes(model, layout, sizes), attributes, layout.factored)


def _differs(model: PreTrainedModel, cut: Cut) -> RecipeError:
    return RecipeError(
        f"layer {cut.name}: {type(model).__name__} does not compute the same outputs with "
        f"{len(cut.kept)} of its {cut.coupling.units} units; exclude the layer"
    )


def _cut_together(
    model: PreTrainedModel,
    cuts: Sequence[Cut],
    smaller: SmallerConfig,
    reference: Sequence[Tensor],
    undo: ExitStack,
) -> bool:
    """Make all cuts and adopt the smaller configuration, if the model then computes the same."""

    def change(undo: ExitStack) -> None:
        for cut in cuts:
            resize(model, cut, undo)
        resize_tables(model, cuts, undo)
        smaller.adopt(model, undo)

    return _changed_if_same(model, cuts, len(cuts), change, reference, undo)


def _cut_one_by_one(
    model: PreTrainedModel, cuts: Sequence[Cut], reference: Sequence[Tensor], undo: ExitStack
) -> dict[str, dict[str, int]]:
    """Make the cuts one after the other, and return the changed attributes by module and name."""
    changed: dict[str, dict[str, int]] = {}
    previous: tuple[str, ...] = ()
    for made, cut in enumerate(cuts, start=1):
        candidates = _size_attributes(model, cut)
        for names in _attribute_sets(candidates, previous):
            attributes = {
                module: {key: values[key] for key in names if key in values}
                for module, values in candidates.items()
            }

            def change(undo: ExitStack, cut: Cut = cut, attributes: dict = attributes) -> None:
                resize(model, cut, undo)
                for module, values in attributes.items():
                    for key, value in values.items():
                        set_attribute(model.get_submodule(module), key, value, undo)

            if _changed_if_same(model, cuts, made, change, reference, undo):
                break
        else:
            raise _differs(model, cut)
        previous = names
        changed |= {module: values for module, values in attributes.items() if values}
        # A new reference, so that rounding errors do not add up over the cuts.
        reference = probe_activations(model, cuts, made)
    return changed


def _changed_if_same(
    model: PreTrainedModel,
    cuts: Sequence[Cut],
    made: int,
    change: Callable[[ExitStack], None],
    reference: Sequence[Tensor],
    undo: ExitStack,
) -> bool:
    """Make a change until ``undo`` is closed, or undo it at once if the activations differ."""
    with ExitStack() as attempt:
        change(attempt)
        try:
            after = probe_activations(model, cuts, made)
        except RecipeError:
            return False
        if not activations_agree(after, reference):
            return False
        undo.enter_context(attempt.pop_all())
    return True


def _layout_sizes(
    model: PreTrainedModel, layout: Layout, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """Return ``sizes`` as the layout has them, with a factored layer in place of its factors."""
    results = {}
    for name, size in sizes.items():
        parent = name.rpartition(".")[0]
        if parent in layout.factored:
            factors: LowRank = model.get_submodule(parent)
            results[parent] = (factors.second.out_features, factors.first.in_features)
        else:
            results[name] = size
    return results


def _size_attributes(model: PreTrainedModel, cut: Cut) -> dict[str, dict[str, int]]:
    """Return the new values of attributes that may depend on the units, by module and name.

    These are the integer attributes that are multiples of the number of units. The modules are
    those from the common ancestor of the cut's layers down to the layers.
    """
    units, kept = cut.coupling.units, len(cut.kept)
    paths = [name.split(".")[:-1] for name in cut.coupling.names]
    shared = next((i for i, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1),
                  min(map(len, paths)))  # fmt: skip
    modules = {".".join(path[:end]) for path in paths for end in range(shared, len(path) + 1)}
    return {
        name: {
            key: value // units * kept
            for key, value in vars(model.get_submodule(name)).items()
            if type(value) is int and value and value % units == 0
        }
        for name in sorted(modules)
    }


def _attribute_sets(
    candidates: Mapping[str, Mapping[str, int]], first: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    """Yield sets of attribute names to try: the one of the previous cut, then the smallest."""
    names = list(dict.fromkeys(key for values in candidates.values() for key in values))
    sizes: Iterable[Iterable[tuple[str, ...]]] = (
        combinations(names, size) for size in range(min(len(names), _MOST_ATTRIBUTES) + 1)
    )
    return iter(dict.fromkeys(chain([first], *sizes)))
