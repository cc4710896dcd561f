"""A compressed model, with what its checkpoint needs to know beyond the weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.layers import all_layers
from compression_gates.compression.model.surgery import Layout
from compression_gates.compression.pruning.patterns import Pattern
from compression_gates.compression.quantization.grids import Quantized
from compression_gates.compression.recipe import Recipe


@dataclass(repr=False)
class Compressed:
    """What the steps of a recipe pass on.

    Attributes:
        model: the model, changed in place; a student where a step distilled one.
        recipe: what is done to it.
        teacher: the model before any step, where a step distils.
        pruned: the pattern of each pruned layer, whose zeros later steps keep.
        quantized: the codes of each quantized layer, which its weights stand for exactly.
        layout: how the model differs from what its configuration describes.
        bitmask: layers that are stored as a bitmask and values.
        notes: what a step left as it was, and why, for a person to read.
        tokenizer: of the model, to be saved beside it.
    """

    model: PreTrainedModel
    recipe: Recipe
    teacher: PreTrainedModel | None = None
    pruned: dict[str, Pattern] = field(default_factory=dict)
    quantized: dict[str, Quantized] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    bitmask: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tokenizer: PreTrainedTokenizerBase | None = None

    def __repr__(self) -> str:
        name = type(self.model).__name__
        return f"<{name} compressed by {self.recipe.name}; save(directory) writes its checkpoint>"

    def save(self, directory: str | Path) -> str:
        """Writes the checkpoint with the model's tokenizer, and returns its format.

        Raises:
            CompressionError: there is no tokenizer, or what was written does not load again.
        """
        from compression_gates.compression.checkpoint.saving import save

        if self.tokenizer is None:
            raise CompressionError("a checkpoint needs the model's tokenizer")
        return save(self, self.tokenizer, Path(directory))

    def zeros_keeper(self, model: PreTrainedModel) -> Callable[[], None]:
        """What, called after an update, zeroes again what is zero now in pruned layers."""
        masks = [
            (layer, layer.weight == 0)
            for name, layer in all_layers(model).items()
            if name in self.pruned
        ]

        @torch.no_grad()
        def keep() -> None:
            for layer, zeros in masks:
                layer.weight.masked_fill_(zeros, 0.0)

        return keep

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that were pruned or quantized."""
        return tuple(dict.fromkeys((*self.pruned, *self.quantized)))
