"""Runs a structured pruning step, which removes attention heads or FFN channels.

The function of a method is ``find(model, layers) -> couplings``. It returns all units of ``model``
of the kind that it removes, and raises a RecipeError if units of the selected ``layers`` cannot be
removed.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import selected_layers
from compression_gates.compression.pruning.patterns import lowest_mask
from compression_gates.compression.recipe import Step
from compression_gates.compression.structured.coupling import Coupling
from compression_gates.compression.structured.cutting import Cut
from compression_gates.compression.structured.importance import unit_scores
from compression_gates.compression.structured.shrink import check_shrinks, shrink


def check(model: PreTrainedModel, step: Step) -> None:
    """Raise a RecipeError if the step selects no units that can be removed."""
    selected_couplings(model, step)


def dry_run(model: PreTrainedModel, step: Step) -> None:
    """Raise a RecipeError if units of the model in its present state cannot be removed.

    The model is not changed. This finds errors of a later step before an earlier step is run.
    """
    cuts = [
        Cut(c, kept_units(torch.arange(c.units, device=c.columns.device), step["sparsity"]))
        for c in selected_couplings(model, step)
        if removed_count(c.units, step["sparsity"])
    ]
    if cuts:
        check_shrinks(model, cuts)


def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Remove the same fraction of units from each selected layer, those with the lowest scores.

    Raises:
        RecipeError: the step does not fit the model.
        CompressionError: the scores cannot be computed.
    """
    model, sparsity = compressed.model, step["sparsity"]
    couplings = []
    for coupling in selected_couplings(model, step):
        name, units = coupling.consumer.name, coupling.units
        if removed_count(units, sparsity):
            couplings.append(coupling)
            if round(sparsity * units) == units:
                compressed.notes.append(
                    f"{name} keeps one of its {units} units, because at least one must remain"
                )
        elif sparsity:
            compressed.notes.append(
                f"{name} keeps all its {units} units, because {sparsity * 100:g} % of them round "
                "to zero"
            )
    if couplings:
        scores = _shared_scores(couplings, unit_scores(model, couplings, step["score"], batches))
        pairs = zip(couplings, scores, strict=True)
        shrink(compressed, [Cut(c, kept_units(values, sparsity)) for c, values in pairs])


def _shared_scores(couplings: Sequence[Coupling], scores: Sequence[Tensor]) -> list[Tensor]:
    """Return the scores, summed over couplings that share a table and lose the same units."""
    sums: dict[str, Tensor] = {}
    for coupling, values in zip(couplings, scores, strict=True):
        for table in coupling.tables:
            sums[table] = sums[table] + values if table in sums else values
    return [
        sums[next(iter(coupling.tables))] if coupling.tables else values
        for coupling, values in zip(couplings, scores, strict=True)
    ]


def removed_count(units: int, sparsity: float) -> int:
    """Return the number of units to remove: the rounded fraction, but never all units."""
    return min(round(sparsity * units), units - 1)


def kept_units(scores: Tensor, sparsity: float) -> Tensor:
    """Return the indices of the units to keep in ascending order.

    Args:
        scores: ``(units,)``. Of equal scores, those of lower indices are removed first.
        sparsity: fraction of the units to remove.
    """
    mask = lowest_mask(scores, removed_count(len(scores), sparsity))
    return (~mask).nonzero().flatten()


def selected_couplings(model: PreTrainedModel, step: Step) -> list[Coupling]:
    """Return the couplings of which the step's patterns select any layer and exclude none.

    Raises:
        RecipeError: no coupling is selected, or the units of one cannot be removed.
    """
    layers = selected_layers(model, step)
    couplings = step.entry.implementation(model, layers)
    selected = [
        coupling
        for coupling in couplings
        if any(name in layers for name in coupling.names)
        and not any(fnmatchcase(name, p) for name in coupling.names for p in step["exclude"])
    ]
    if not selected:
        raise RecipeError(
            f"layer {next(iter(layers))}: neither it nor another selected layer of "
            f"{type(model).__name__} has more than one unit that {step.method} can remove"
        )
    tables = {table for coupling in selected for table in coupling.tables}
    for coupling in couplings:
        shared = tables & coupling.tables.keys()
        if coupling not in selected and shared:
            raise RecipeError(
                f"layer {coupling.consumer.name}: its heads share {min(shared)} with other layers; "
                "include or exclude all of these layers"
            )
    return selected
