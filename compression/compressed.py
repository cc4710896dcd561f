"""A compressed model, and the metadata that its checkpoint needs."""

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
    """A model and the metadata that steps of a recipe add to it.

    Attributes:
        model: the model, changed in place, or the student of a distillation step.
        recipe: the recipe that is applied.
        teacher: a copy of the uncompressed model, if a step distills.
        pruned: the sparsity pattern of each pruned layer; later steps preserve its zeros.
        quantized: the codes of each quantized layer; its weight is exactly the dequantized codes.
        layout: differences from the architecture that the configuration describes.
        bitmask: layers to store as a bitmask and nonzero values.
        notes: messages for the user, such as layers that remain uncompressed and why.
        tokenizer: the model's tokenizer, saved with the checkpoint.
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
        """Write a checkpoint with the model's tokenizer, and return its format.

        Raises:
            CompressionError: the tokenizer is missing, or the checkpoint does not load correctly.
        """
        from compression_gates.compression.checkpoint.saving import save

        if self.tokenizer is None:
            raise CompressionError("saving needs the model's tokenizer; set tokenizer first")
        return save(self, self.tokenizer, Path(directory))

    def zeros_keeper(self, model: PreTrainedModel) -> Callable[[], None]:
        """Return a function that restores the present zeros of pruned layers."""
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
