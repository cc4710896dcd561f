"""Carries out a structured pruning step: heads or FFN channels go, and the model gets smaller.

A method's function is ``find(model, layers) -> couplings``: all units of ``model`` that it takes
away, with a RecipeError where the chosen ``layers`` have some that cannot go.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import selected_layers
from compression_gates.compression.pruning.patterns import lowest_mask
from compression_gates.compression.recipe import Step
from compression_gates.compression.structured.coupling import Coupling
from compression_gates.compression.structured.cutting import Cut
from compression_gates.compression.structured.scores import unit_scores
from compression_gates.compression.structured.shrink import check_shrinks, shrink


def check(model: PreTrainedModel, step: Step) -> None:
    """Raises a RecipeError where the step finds nothing that can go."""
    chosen(model, step)


def rehearse(model: PreTrainedModel, step: Step) -> None:
    """Raises a RecipeError where some units of the model as it is cannot go; it stays as it is.

    For a step behind others, which is reached only once these have changed the model.
    """
    couplings = [c for c in chosen(model, step) if gone(c.units, step["sparsity"])]
    stays = {c: kept_units(torch.arange(c.units), step["sparsity"]) for c in couplings}
    if couplings:
        check_shrinks(model, [Cut(c, kept.to(c.columns.device)) for c, kept in stays.items()])


def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Takes the units of the lowest scores away, of each layer the same share."""
    model = compressed.model
    found = chosen(model, step)
    couplings = [coupling for coupling in found if gone(coupling.units, step["sparsity"])]
    compressed.notes += [
        f"{name} keeps its {units} units: {step['sparsity'] * 100:g} % of them is none"
        for name, units in ((coupling.consumer.name, coupling.units) for coupling in found)
        if step["sparsity"] and not gone(units, step["sparsity"])
    ]
    compressed.notes += [
        f"{coupling.consumer.name} keeps one of its {coupling.units} units: it cannot lose them all"
        for coupling in couplings
        if round(step["sparsity"] * coupling.units) == coupling.units
    ]
    if not couplings:
        return
    scores = _alike(couplings, unit_scores(model, couplings, step["score"], batches))
    shrink(
        compressed,
        [
            Cut(coupling, kept_units(worth, step["sparsity"]))
            for coupling, worth in zip(couplings, scores, strict=True)
        ],
    )


def _alike(couplings: Sequence[Coupling], scores: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The scores, summed over couplings that share a table and so lose the same units."""
    sums: dict[str, torch.Tensor] = {}
    for coupling, worth in zip(couplings, scores, strict=True):
        for table in coupling.tables:
            sums[table] = sums[table] + worth if table in sums else worth
    return [
        sums[next(iter(coupling.tables))] if coupling.tables else worth
        for coupling, worth in zip(couplings, scores, strict=True)
    ]


def gone(units: int, sparsity: float) -> int:
    """How many units go: the share of them, rounded, but never all."""
    return min(round(sparsity * units), units - 1)


def kept_units(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The units that stay, in their order; of equal scores the first go."""
    mask = lowest_mask(scores, gone(len(scores), sparsity))
    return (~mask).nonzero().flatten()


def chosen(model: PreTrainedModel, step: Step) -> list[Coupling]:
    """The units that the step is about: those that a pattern names by any of their layers.

    Raises:
        RecipeError: no units, or units that cannot go.
    """
    layers = selected_layers(model, step)
    everything = step.entry.implementation(model, layers)
    found = [
        coupling
        for coupling in everything
        if any(name in layers for name in coupling.names)
        and not any(fnmatchcase(name, p) for name in coupling.names for p in step["exclude"])
    ]
    if not found:
        raise RecipeError(
            f"layer {next(iter(layers))}: neither it nor another chosen layer of "
            f"{type(model).__name__} has more than one unit that {step.method} can take away"
        )
    tables = {table for coupling in found for table in coupling.tables}
    for coupling in everything:
        shared = tables & coupling.tables.keys()
        if coupling not in found and shared:
            raise RecipeError(
                f"layer {coupling.consumer.name}: its heads share {min(shared)} with those of "
                "other layers, which lose the same ones; include or exclude all of them"
            )
    return found
