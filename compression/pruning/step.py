"""Runs a pruning step.

The function of a method is ``prune(task) -> None``. It sets weights of the layers of the
:class:`~compression_gates.compression.pruning.masks.PruningTask` to zero in place.
"""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import collect
from compression_gates.compression.calibration.resources import in_host_memory
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
from compression_gates.compression.pruning.masks import PruningTask
from compression_gates.compression.pruning.owl import owl_sparsities
from compression_gates.compression.pruning.patterns import NofM, Pattern, Unstructured
from compression_gates.compression.recipe import Step, needs_data, trains


def pattern_of(step: Step) -> Pattern:
    """Return the pattern that the settings of a step request."""
    if step.settings.get("pattern") is not None:
        return NofM(*step["pattern"])
    return Unstructured(step["sparsity"])


def check(model: PreTrainedModel, step: Step) -> None:
    """Raise a RecipeError if the settings contradict each other or do not fit a layer."""
    pattern = pattern_of(step)
    if isinstance(pattern, NofM) and step.settings.get("allocation") == "owl":
        raise RecipeError(
            f"{step.name}: allocation=owl needs an unstructured sparsity, because {pattern} fixes "
            "the sparsity of every layer"
        )
    if step.settings.get("allocation") == "uniform":
        for name in {"outlier", "spread"} & dict(step.given).keys():
            raise RecipeError(f"{step.name}: the setting {name} needs allocation=owl")
    layers, _ = _select(model, step)
    if trains(step):
        check_untied(model, layers)
    for name, layer in layers.items():
        with naming(name):
            pattern.check(layer.in_features)
            if trains(step) and layer.expert is not None:
                raise RecipeError(
                    f"{step.method} pruning does not support experts that share a parameter; "
                    f"{excluding_experts(layers)}"
                )


def _select(model: PreTrainedModel, step: Step) -> tuple[dict[str, Layer], list[str]]:
    """Return the layers to prune, and notes on selected layers that are left out."""
    return select_reached(model, step) if needs_data(step) else (selected_layers(model, step), [])


def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Prune the selected layers in place and record their patterns.

    Raises:
        RecipeError: the step does not fit the model.
        CompressionError: the calibration or training failed, or the result is not as requested.
    """
    model = compressed.model
    layers, notes = _select(model, step)
    compressed.notes += notes
    patterns = dict.fromkeys(layers, pattern_of(step))
    if step.settings.get("allocation") == "owl":
        patterns = _owl_patterns(model, layers, step, batches)
    step.entry.implementation(PruningTask(compressed, layers, patterns, step, batches))
    compressed.pruned |= patterns


def _owl_patterns(
    model: PreTrainedModel, layers: Mapping[str, Layer], step: Step, batches: Sequence[Batch]
) -> dict[str, Pattern]:
    statistics = collect(model, layers, batches, with_products=False)
    sparsities = owl_sparsities(
        model,
        {name: layer.weight.detach() for name, layer in layers.items()},
        {name: in_host_memory(moments.norm) for name, moments in statistics.items()},
        step["sparsity"], step["outlier"], step["spread"],
    )  # fmt: skip
    return {name: Unstructured(sparsity) for name, sparsity in sparsities.items()}
