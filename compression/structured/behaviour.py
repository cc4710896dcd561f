"""What a model computes, to be compared before and behind a surgery."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression_gates.compression.model.tracing import random_outputs, run_probe
from compression_gates.compression.structured.cutting import Cut


def behaviour(model: PreTrainedModel, cuts: Sequence[Cut], shrunk: int) -> list[Tensor]:
    """What a model does of which the first ``shrunk`` cuts are made and the others masked.

    Returns:
        its outputs on the probe; then, with random outputs of the producers, the channels that
        stay of every consumer's inputs, use after use.
    """
    seen: list[Tensor] = []
    with ExitStack() as stack:
        for number, cut in enumerate(cuts):
            consumer = model.get_submodule(cut.name)
            hook = _see if number < shrunk else _mask
            stack.enter_context(consumer.register_forward_pre_hook(hook(cut, seen)))
        outputs = run_probe(model)
        seen.clear()
        for number, cut in enumerate(cuts):
            for name, rows in cut.rows.items():
                put = _put(name, rows, cut_off=number < shrunk)
                stack.enter_context(model.get_submodule(name).register_forward_hook(put))
        run_probe(model)
    return [outputs, *seen]


def _mask(cut: Cut, seen: list[Tensor]) -> Callable:
    columns = cut.columns

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first, *others = inputs
        seen.append(first[..., columns])
        return first.masked_fill(~columns, 0.0), *others

    return hook


def _see(cut: Cut, seen: list[Tensor]) -> Callable:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].clone())

    return hook


def _put(name: str, rows: Tensor, cut_off: bool) -> Callable:
    calls = 0

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal calls
        drawn = random_outputs(name, calls, output, len(rows))
        calls += 1
        return drawn[..., rows] if cut_off else drawn

    return hook


def same(after: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Whether outputs agree but for rounding, and inputs of consumers but for that of one layer.

    Relative to the norm: rounding adds up through the model, ``sqrt(eps)`` bounds it and is half
    of all digits; one attention or activation on the same numbers leaves a few ``eps``.
    """
    if len(after) != len(before):
        return False
    for number, (new, old) in enumerate(zip(after, before, strict=True)):
        eps = torch.finfo(old.dtype).eps
        tolerance = 16 * eps if number else eps**0.5
        if new.shape != old.shape:
            return False
        new, old = new.double(), old.double()
        # Not what is greater: what is not a number is not the same.
        if not (new - old).norm() <= tolerance * old.norm():
            return False
    return True
