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
class Unit:
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


def modules_in(model: nn.Module, root: str = "", without: Collection[str] = ()) -> list[Unit]:
    """Return the modules with parameters in the module ``root``, in order.

    Args:
        model: the model.
        root: name of a module; empty for the whole model.
        without: names of modules that are left out with all that they contain.
    """
    units: list[Unit] = []

    def visit(name: str, module: nn.Module) -> None:
        if name in without:
            return
        children = [
            (key, child) for key, child in module.named_children() if _has_parameters(child)
        ]
        own = [
            f"{name}.{key}" if name else key
            for key, p in module._parameters.items()
            if p is not None
        ]
        if own and children:
            units.append(Unit(name or "the model", parameters=tuple(own)))
        elif own:
            units.append(Unit(name, (name,)))
        for key, child in children:
            visit(f"{name}.{key}" if name else key, child)

    visit(root, model.get_submodule(root))
    return units


def joined(units: Sequence[Unit]) -> Unit:
    """Return the unit that consists of all ``units``."""
    first, *others = units
    names = listed([unit.name for unit in others])
    return Unit(
        f"{first.name} (with {names})" if others else first.name,
        tuple(dict.fromkeys(name for unit in units for name in unit.modules)),
        tuple(dict.fromkeys(name for unit in units for name in unit.parameters)),
    )


def with_tied_joined(
    units: Sequence[Unit], baseline: nn.Module, candidate: nn.Module
) -> list[Unit]:
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


def _parameter_ids(model: nn.Module, unit: Unit) -> set[int]:
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


def at_most(units: Sequence[Unit], count: int) -> list[Unit]:
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
