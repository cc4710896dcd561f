"""The units of a model that attribution swaps: its blocks, and modules with parameters.

A *block* is an element of an outermost list of modules, such as a layer of a transformer. A
*module* is a leaf with parameters, or the parameters that belong directly to a module with such
leaves.
Embeddings, the final norm, the head and whatever else is outside of blocks are modules, too.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from compression_gates.evals.errors import listed


@dataclass(frozen=True)
class SwapUnit:
    """What is swapped together.

    Attributes:
        name: name of the module, or of the first one with the other names in brackets.
        modules: names of the modules that are swapped as objects.
        parameters: names of parameters that are swapped alone, because their module contains
            other units.
    """

    name: str
    modules: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the modules that the unit consists of."""
        owners = (name.rpartition(".")[0] for name in self.parameters)
        return tuple(dict.fromkeys((*self.modules, *owners)))


def block_names(model: nn.Module) -> list[str]:
    """Return the names of the blocks of a model in order, shared ones once.

    A model without a list of modules has its direct children with parameters as blocks.
    """
    names = list(_elements(model, ""))
    return names or [name for name, child in model.named_children() if _has_parameters(child)]


def _elements(module: nn.Module, name: str) -> Iterator[str]:
    for key, child in module.named_children():
        path = f"{name}.{key}" if name else key
        is_element = isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList)
        if not is_element:
            yield from _elements(child, path)
        elif _has_parameters(child):
            yield path


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def modules_in(model: nn.Module, root: str = "", without: Collection[str] = ()) -> list[SwapUnit]:
    """Return the modules with parameters in the module ``root``, in order.

    Args:
        model: the model.
        root: name of a module; empty for the whole model.
        without: names of modules that are left out with all that they contain.
    """
    units: list[SwapUnit] = []

    def visit(name: str) -> None:
        if name in without:
            return
        for part in _parts(model, name):
            if part.parameters or part.modules == (name,):
                units.append(part)
            else:
                visit(part.name)

    visit(root)
    return units


def divided(model: nn.Module, root: str, most: int) -> list[SwapUnit]:
    """Return the modules in the module ``root`` in order, at most ``most``.

    If :func:`modules_in` would return more, some units are modules around these: modules with few
    parts are divided first, so that a list of many experts remains one unit.
    """
    units = [SwapUnit(root, (root,))]
    parts = {units[0]: _parts(model, root)}
    while True:
        options = [
            unit for unit in units if unit in parts and len(units) - 1 + len(parts[unit]) <= most
        ]
        if not options:
            return units
        unit = min(options, key=lambda option: len(parts[option]))
        found, index = parts.pop(unit), units.index(unit)
        units[index : index + 1] = found
        parts |= {part: _parts(model, part.name) for part in found if part.modules != unit.modules}
        parts = {part: inner for part, inner in parts.items() if inner != [part]}


def _parts(model: nn.Module, name: str) -> list[SwapUnit]:
    """Return what a module consists of: its own parameters, and its children with parameters; or
    the module itself if it has no such children."""
    module = model.get_submodule(name)
    children = [key for key, child in module.named_children() if _has_parameters(child)]
    own = [key for key, p in module._parameters.items() if p is not None]
    own, children = ([f"{name}.{key}" if name else key for key in keys] for keys in (own, children))
    if not children:
        return [SwapUnit(name, (name,))] if own else []
    units = [SwapUnit(child, (child,)) for child in children]
    return [SwapUnit(name or "the model", parameters=tuple(own)), *units] if own else units


def grouped(units: Sequence[SwapUnit], count: int) -> list[tuple[SwapUnit, list[SwapUnit]]]:
    """Return at most ``count`` groups of neighbours of about equal size, and the units in them."""
    count = min(count, len(units))
    groups = [
        list(units[i * len(units) // count : (i + 1) * len(units) // count]) for i in range(count)
    ]
    return [(_group(members), members) for members in groups]


def _group(members: Sequence[SwapUnit]) -> SwapUnit:
    """Return a unit of neighbours that is named by the first and the last one."""
    if len(members) == 1:
        return members[0]
    name = f"{members[0].name} to {members[-1].name}"
    return SwapUnit(name, joined(members).modules, joined(members).parameters)


def joined(units: Sequence[SwapUnit]) -> SwapUnit:
    """Return the unit that consists of all ``units``."""
    first, *others = units
    names = listed([unit.name for unit in others])
    return SwapUnit(
        f"{first.name} (with {names})" if others else first.name,
        tuple(dict.fromkeys(name for unit in units for name in unit.modules)),
        tuple(dict.fromkeys(name for unit in units for name in unit.parameters)),
    )


def with_tied_joined(
    units: Sequence[SwapUnit], baseline: nn.Module, candidate: nn.Module
) -> list[SwapUnit]:
    """Return the units, joined where both models share a parameter between them.

    If only one of the models ties them, they can be swapped one at a time.
    """
    shared = [[_parameter_ids(model, unit) for unit in units] for model in (baseline, candidate)]
    groups: list[list[int]] = []
    for index in range(len(units)):
        tied = [
            group
            for group in groups
            if any(all(side[index] & side[other] for side in shared) for other in group)
        ]
        groups = [group for group in groups if group not in tied]
        groups.append(sorted([*(other for group in tied for other in group), index]))
    return [joined([units[index] for index in group]) for group in sorted(groups)]


def _parameter_ids(model: nn.Module, unit: SwapUnit) -> set[int]:
    modules = [model.get_submodule(name) for name in unit.modules if _contains(model, name)]
    owned = [p for module in modules for p in module.parameters()]
    owners = dict(model.named_parameters(remove_duplicate=False)) if unit.parameters else {}
    return {id(p) for p in (*owned, *(owners[n] for n in unit.parameters if n in owners))}


def _contains(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def at_most(units: Sequence[SwapUnit], count: int) -> list[SwapUnit]:
    """Return at most ``count`` units: neighbours whose names have the longest common beginning are
    joined first."""
    units = list(units)
    while len(units) > max(count, 1):
        index = max(range(len(units) - 1), key=lambda i: _common(units[i].name, units[i + 1].name))
        units[index : index + 2] = [joined(units[index : index + 2])]
    return units


def _common(one: str, two: str) -> int:
    """Return the number of components at the beginning that two names have in common."""
    count = 0
    for before, after in zip(one.split("."), two.split("."), strict=False):
        if before != after:
            break
        count += 1
    return count
