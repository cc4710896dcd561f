"""Carries out a pruning step.

A method's function is ``prune(compressed, layers, patterns, step, batches)``: it sets weights of
``layers`` to zero as ``patterns`` ask, both by name, through :mod:`compression.pruning.masks`.
"""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import collect
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import RecipeError, naming
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import (
    Layer,
    check_untied,
    excluding_experts,
    selected_layers,
)
from compression_gates.compression.model.tracing import select_reached
from compression_gates.compression.pruning.owl import owl_sparsities
from compression_gates.compression.pruning.patterns import NofM, Pattern, Unstructured
from compression_gates.compression.recipe import Step, needs_data, trains


def pattern_of(step: Step) -> Pattern:
    """The pattern that a pruning step asks for."""
    if step.settings.get("pattern") is not None:
        return NofM(*step["pattern"])
    return Unstructured(step["sparsity"])


def check(model: PreTrainedModel, step: Step) -> None:
    """Raises a RecipeError where the pattern does not fit a layer."""
    pattern = pattern_of(step)
    if isinstance(pattern, NofM) and step.settings.get("allocation") == "owl":
        raise RecipeError(f"{step.name}: OWL spreads a sparsity; {pattern} is the same everywhere")
    if step.settings.get("allocation") == "uniform":
        for name in {"outlier", "spread"} & dict(step.given).keys():
            raise RecipeError(f"{step.name}: {name} is of OWL; give allocation=owl with it")
    layers, _ = _chosen(model, step)
    if trains(step):
        check_untied(model, layers)
    for name, layer in layers.items():
        with naming(name):
            pattern.check(layer.in_features)
            if trains(step) and layer.expert is not None:
                raise RecipeError(
                    f"{step.method} pruning needs a module of its own; {excluding_experts(layers)}"
                )


def _chosen(model: PreTrainedModel, step: Step) -> tuple[dict[str, Layer], list[str]]:
    """The layers that are pruned, and notes on those that are left out."""
    return select_reached(model, step) if needs_data(step) else (selected_layers(model, step), [])


def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Prunes the layers that the step chooses."""
    model = compressed.model
    layers, notes = _chosen(model, step)
    compressed.notes += notes
    patterns = dict.fromkeys(layers, pattern_of(step))
    if step.settings.get("allocation") == "owl":
        patterns = _owl(model, layers, step, batches)
    step.entry.implementation(compressed, layers, patterns, step, batches)
    compressed.pruned |= patterns


def _owl(
    model: PreTrainedModel, layers: Mapping[str, Layer], step: Step, batches: Sequence[Batch]
) -> dict[str, Pattern]:
    """A pattern for each layer: alike within a block, by the share of outliers between blocks."""
    seen = collect(model, layers, batches, with_products=False)
    sparsities = owl_sparsities(
        model,
        {name: layer.weight.detach() for name, layer in layers.items()},
        {name: statistics.norm for name, statistics in seen.items()},
        step["sparsity"], step["outlier"], step["spread"],
    )  # fmt: skip
    return {name: Unstructured(sparsity) for name, sparsity in sparsities.items()}
