"""Compares what a model computes before and after layers are made smaller."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression_gates.compression.model.tracing import random_outputs, run_probe
from compression_gates.compression.structured.cutting import Cut


def probe_activations(model: PreTrainedModel, cuts: Sequence[Cut], made: int) -> list[Tensor]:
    """Return the activations of a model, which are the same before and after each cut is made.

    The removed channels of cuts that are not made yet are set to zero.

    Args:
        model: in evaluation mode.
        cuts: all cuts, in the order in which they are made.
        made: number of cuts that have been made.

    Returns:
        The outputs of the model on the probe; then the remaining channels of every consumer's
        inputs, call by call, with random outputs of the producers.

    Raises:
        RecipeError: the model does not run on the probe.
    """
    captured: list[Tensor] = []
    with ExitStack() as stack:
        for number, cut in enumerate(cuts):
            columns = None if number < made else cut.columns
            consumer = model.get_submodule(cut.name)
            stack.enter_context(consumer.register_forward_pre_hook(_capture(captured, columns)))
        outputs = run_probe(model)
        captured.clear()
        for number, cut in enumerate(cuts):
            for name, rows in cut.rows.items():
                hook = _randomize(name, rows, shrunk=number < made)
                stack.enter_context(model.get_submodule(name).register_forward_hook(hook))
        run_probe(model)
    return [outputs, *captured]


def _capture(captured: list[Tensor], columns: Tensor | None) -> Callable:
    """Return a hook that captures the remaining channels and sets the other channels to zero."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        first, *others = inputs
        if columns is None:
            captured.append(first.clone())
            return None
        captured.append(first[..., columns])
        return first.masked_fill(~columns, 0.0), *others

    return hook


def _randomize(name: str, rows: Tensor, shrunk: bool) -> Callable:
    """Return a hook that replaces outputs by random numbers, the same before and after the cut."""
    calls = 0

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal calls
        outputs = random_outputs(name, calls, output, len(rows))
        calls += 1
        return outputs[..., rows] if shrunk else outputs

    return hook


def activations_agree(after: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Return whether two results of :func:`probe_activations` agree up to rounding.

    Tolerances are relative to the norm. Rounding errors of the outputs accumulate over the whole
    model and are bounded by ``sqrt(eps)``. The inputs of consumers follow from the random outputs
    by one attention or activation function, which leaves a few ``eps``.
    """
    if len(after) != len(before):
        return False
    for number, (new, old) in enumerate(zip(after, before, strict=True)):
        eps = torch.finfo(old.dtype).eps
        tolerance = 16 * eps if number else eps**0.5
        if new.shape != old.shape:
            return False
        new, old = new.double(), old.double()
        # Written so that NaN does not agree.
        if not (new - old).norm() <= tolerance * old.norm():
            return False
    return True
