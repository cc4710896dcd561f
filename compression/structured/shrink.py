"""Makes a model smaller by the units that go, and proves that it still computes the same.

The reference is the model with the inputs of the consumers set to zero in the channels that go.
Behind the surgery the model must give the same outputs, and each consumer must be given the same
inputs when its producers give the same random outputs; else everything is put back.

Modules keep numbers of their own size, such as ``num_heads`` or ``split_size``. Which of them count
what went is tried out: none first, then the fewest that make the model compute the same.
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
from compression_gates.compression.structured.behaviour import behaviour, same
from compression_gates.compression.structured.cutting import (
    Cut,
    resize,
    resize_tables,
    set_attribute,
    sizes_after,
)
from compression_gates.compression.structured.plain import Plain, find_plain

_MOST_NUMBERS = 3
"""A module keeps at most this many numbers that count the same units."""


@torch.no_grad()
def shrink(compressed: Compressed, cuts: Sequence[Cut]) -> None:
    """Takes away the units that do not stay, and writes down in the layout what its checkpoint
    must know; nothing, where a changed configuration says it all.

    Raises:
        RecipeError: names the consumer of units that cannot go; the model is then as it was.
    """
    with ExitStack() as undo:
        compressed.layout = _shrunk(compressed.model, compressed.layout, cuts, undo)
        undo.pop_all()


@torch.no_grad()
def check_shrinks(model: PreTrainedModel, cuts: Sequence[Cut]) -> None:
    """Raises a RecipeError where :func:`shrink` would; the model stays as it is."""
    with ExitStack() as undo:
        _shrunk(model, Layout(), cuts, undo)


def _shrunk(model: PreTrainedModel, layout: Layout, cuts: Sequence[Cut], undo: ExitStack) -> Layout:
    """Makes the cuts until they are undone; the layout of the smaller model."""
    sizes = sizes_after(model, cuts)
    reference = behaviour(model, cuts, shrunk=0)
    plain = find_plain(model, layout, sizes, [(cut.coupling, len(cut.kept)) for cut in cuts])
    if plain is not None and _all_at_once(model, cuts, plain, reference, undo):
        return plain.layout
    for cut in cuts:
        if cut.tables:
            raise _differs(model, cut)
    numbers = _one_by_one(model, cuts, reference, undo)
    attributes = {module: dict(known) for module, known in layout.attributes.items()}
    for module, kept in numbers.items():
        attributes.setdefault(module, {}).update(kept)
    return Layout(layout.resized | _described(model, layout, sizes), attributes, layout.factored)


def _differs(model: PreTrainedModel, cut: Cut) -> RecipeError:
    return RecipeError(
        f"layer {cut.name}: {type(model).__name__} does not compute the same with "
        f"{len(cut.kept)} of its {cut.coupling.units} units; exclude the layer"
    )


def _all_at_once(
    model: PreTrainedModel,
    cuts: Sequence[Cut],
    plain: Plain,
    reference: Sequence[Tensor],
    undo: ExitStack,
) -> bool:
    def change(undo: ExitStack) -> None:
        for cut in cuts:
            resize(model, cut, undo)
        resize_tables(model, cuts, undo)
        plain.adopt(model, undo)

    made = _kept_if_same(model, cuts, len(cuts), change, reference)
    if made is not None:
        undo.enter_context(made)
    return made is not None


def _one_by_one(
    model: PreTrainedModel, cuts: Sequence[Cut], reference: Sequence[Tensor], everything: ExitStack
) -> dict[str, dict[str, int]]:
    """Shrinks layer by layer, until it is undone; returns the modules' numbers that changed."""
    changed: dict[str, dict[str, int]] = {}
    fitting: tuple[str, ...] = ()
    for done, cut in enumerate(cuts, start=1):
        owners = _numbers(model, cut)
        for names in _choices(owners, fitting):
            numbers = {
                module: {key: found[key] for key in names if key in found}
                for module, found in owners.items()
            }

            def change(undo: ExitStack, cut: Cut = cut, numbers: dict = numbers) -> None:
                resize(model, cut, undo)
                for module, values in numbers.items():
                    for key, value in values.items():
                        set_attribute(model.get_submodule(module), key, value, undo)

            undo = _kept_if_same(model, cuts, done, change, reference)
            if undo is not None:
                break
        else:
            raise _differs(model, cut)
        everything.enter_context(undo)
        fitting = names
        changed |= {module: values for module, values in numbers.items() if values}
        # What was rounded otherwise here is no difference of the next layer.
        reference = behaviour(model, cuts, done)
    return changed


def _kept_if_same(
    model: PreTrainedModel,
    cuts: Sequence[Cut],
    shrunk: int,
    change: Callable[[ExitStack], None],
    reference: Sequence[Tensor],
) -> ExitStack | None:
    """Makes a change; what undoes it if the model then behaves the same, else it is undone."""
    with ExitStack() as undo:
        change(undo)
        try:
            after = behaviour(model, cuts, shrunk)
        except RecipeError:
            return None
        if same(after, reference):
            return undo.pop_all()
    return None


def _described(
    model: PreTrainedModel, layout: Layout, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """``sizes`` for the layout, in which a layer of two factors is resized before it is two."""
    found = {}
    for name, size in sizes.items():
        parent = name.rpartition(".")[0]
        if parent in layout.factored:
            factors: LowRank = model.get_submodule(parent)
            found[parent] = (factors.second.out_features, factors.first.in_features)
        else:
            found[name] = size
    return found


def _numbers(model: PreTrainedModel, cut: Cut) -> dict[str, dict[str, int]]:
    """Numbers that may count the units, and what they would become, by module and name.

    Modules are those between the cut's layers and their common ancestor, included; numbers are
    whole multiples of how many units there are.
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


def _choices(
    owners: Mapping[str, Mapping[str, int]], first: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    """Sets of names to try: what fitted the layer before, then the smallest."""
    names = list(dict.fromkeys(key for found in owners.values() for key in found))
    sizes: Iterable[Iterable[tuple[str, ...]]] = (
        combinations(names, size) for size in range(min(len(names), _MOST_NUMBERS) + 1)
    )
    return iter(dict.fromkeys(chain([first], *sizes)))
