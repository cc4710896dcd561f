"""Swap modules of a candidate into its baseline, and restore the baseline exactly.

Whole module objects are swapped, so that hooks, quantized forms and replaced forward functions come
with them. Inside a baseline of another dtype, a module computes in its own dtype.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from compression_gates.evals.attribution.swap_units import SwapUnit

SCALARS = (bool, int, float, str, type(None))
_OFFLOADING = {"forward", "is_staged", "_original_forward_func"}
"""What compressed-tensors adds to every module of a model, also to those that it leaves alone."""


class NotSwappableError(Exception):
    """A unit of the candidate does not fit into the baseline; the message gives the reason."""


@contextmanager
def swapped(baseline: nn.Module, candidate: nn.Module, unit: SwapUnit) -> Iterator[None]:
    """Replace a unit of the baseline by that of the candidate inside the block.

    Args:
        baseline: is changed in place, and restored on exit, also after an error.
        candidate: its modules are used as they are.
        unit: what is replaced.

    Raises:
        NotSwappableError: the candidate has no such module.
    """
    with ExitStack() as stack:
        for owner, key, new in _replacements(baseline, candidate, unit):
            stack.callback(owner.__setitem__, key, owner[key])
            if isinstance(new, nn.Module):
                _keep_dtype(stack, owner[key], new)
            owner[key] = new
        yield


def _replacements(
    baseline: nn.Module, candidate: nn.Module, unit: SwapUnit
) -> list[tuple[dict, str, object]]:
    """Return the dictionary, the key and the new value of everything that has to be replaced.

    A module that is used in several places is replaced in all of them.
    """
    found: dict[tuple[int, str], tuple[dict, str, object]] = {}
    wanted = {id(baseline.get_submodule(name)) for name in unit.modules}
    for path, module in baseline.named_modules(remove_duplicate=False):
        if id(module) in wanted:
            parent, _, key = path.rpartition(".")
            owner = baseline.get_submodule(parent)._modules
            found.setdefault((id(owner), key), (owner, key, _submodule(candidate, path)))
    for path in unit.parameters:
        parent, _, key = path.rpartition(".")
        owner = baseline.get_submodule(parent)._parameters
        new = _submodule(candidate, parent)._parameters.get(key)
        if new is None or new.shape != owner[key].shape:
            raise NotSwappableError(f"{path} has no counterpart of the same shape")
        # The cast does nothing to a parameter of the same dtype.
        value = nn.Parameter(new.detach().to(owner[key].dtype), requires_grad=False)
        found[id(owner), key] = (owner, key, value)
    return list(found.values())


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise NotSwappableError(f"the candidate has no module {name}") from None


def _keep_dtype(stack: ExitStack, before: nn.Module, after: nn.Module) -> None:
    """Convert the inputs and outputs of ``after`` if it has another dtype than ``before``."""
    outer, inner = _dtype(before), _dtype(after)
    if None in (outer, inner) or outer == inner:
        return
    stack.enter_context(
        after.register_forward_pre_hook(
            lambda _, args, kwargs: (_cast(args, inner), _cast(kwargs, inner)), with_kwargs=True
        )
    )
    stack.enter_context(after.register_forward_hook(lambda _, args, output: _cast(output, outer)))


def _dtype(module: nn.Module) -> torch.dtype | None:
    """Return the dtype in which a module computes; None if its parameters do not determine it."""
    floating = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next((dtype for dtype in floating if dtype.itemsize > 1), None)


def _cast(value, dtype: torch.dtype):
    """Return a value with all floating tensors in it converted to ``dtype``.

    The lowest number of a dtype, which masks attention, becomes the lowest number of ``dtype``.
    """
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point() or value.dtype == dtype:
            return value
        lowest = value == torch.finfo(value.dtype).min
        return value.to(dtype).masked_fill(lowest, torch.finfo(dtype).min)
    if isinstance(value, tuple | list):
        items = [_cast(item, dtype) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):  # also the outputs of transformers
        for key, item in list(value.items()):
            value[key] = _cast(item, dtype)
    return value


def check_fits(
    baseline: nn.Module, candidate: nn.Module, unit: SwapUnit, probe: Callable[[], object]
) -> None:
    """Check that a unit of the candidate can be used in the baseline.

    Parameters of equal shapes fit. Others, such as those of packed or factored layers, are tried.

    Args:
        baseline, candidate, unit: as for :func:`swapped`.
        probe: runs the baseline on a few tokens.

    Raises:
        NotSwappableError: it cannot; names a shape that differs.
    """
    difference = ""
    for name in unit.modules:
        before, after = _shapes(baseline.get_submodule(name)), _shapes(_submodule(candidate, name))
        difference = difference or _difference(name, before, after)
    if not difference:
        return
    try:
        with swapped(baseline, candidate, unit):
            probe()
    except NotSwappableError:
        raise
    except Exception as error:
        raise NotSwappableError(difference) from error


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _difference(name: str, before: Mapping[str, tuple], after: Mapping[str, tuple]) -> str:
    """Return a sentence on the first parameter of the baseline that has another shape in the
    candidate; empty if there is none. Quantized layers may have further parameters."""
    for key, shape in before.items():
        if after.get(key) != shape:
            other = after.get(key, "missing")
            return f"{name}.{key} is {other} in the candidate and {shape} in the baseline"
    return ""


def is_same(before: nn.Module, after: nn.Module) -> bool:
    """Return whether two modules certainly compute the same function.

    They have the same classes, settings, parameters and buffers, and neither hooks nor replaced
    forward functions.
    """
    sides = [dict(module.named_modules()) for module in (before, after)]
    if sides[0].keys() != sides[1].keys() or repr(before) != repr(after):
        return False
    return all(_is_same_node(sides[0][name], sides[1][name]) for name in sides[0])


def _is_same_node(before: nn.Module, after: nn.Module) -> bool:
    if any(module._forward_pre_hooks or module._forward_hooks for module in (before, after)):
        return False
    if not vars(after).keys() - vars(before).keys() <= _OFFLOADING or "forward" in vars(before):
        return False
    forward = vars(after).get("forward")
    if forward is not None and getattr(forward, "__wrapped__", None) is not type(after).forward:
        return False
    settings = [
        {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, SCALARS) and name not in _OFFLOADING
        }
        for module in (before, after)
    ]
    if type(before) is not type(after) or settings[0] != settings[1]:
        return False
    tensors = [
        {name: t for name, t in {**side._parameters, **side._buffers}.items() if t is not None}
        for side in (before, after)
    ]
    return tensors[0].keys() == tensors[1].keys() and all(
        is_equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items()
    )


def is_equal(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Return whether two tensors certainly have the same class, dtype and values."""
    if type(one) is not type(two) or one.is_meta or two.is_meta or one.dtype != two.dtype:
        return False
    return torch.equal(one, two)
