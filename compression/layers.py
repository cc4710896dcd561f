"""The linear layers of a model, found by one walk over its modules, whatever the architecture.

A layer is a weight that inputs are multiplied with: an :class:`torch.nn.Linear`, a ``Conv1D`` of
GPT-2 (whose weight is stored the other way round), or one expert of a mixture, which is a slice
of a parameter with three dimensions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compression.errors import RecipeError
from compression.recipe import Step


@dataclass(frozen=True)
class Layer:
    """A handle on one weight; changing ``weight`` in place changes the model.

    Attributes:
        name: of the module; of an expert ``MODULE.PARAMETER.NUMBER``.
        module: what holds the parameter.
        parameter: its name in the module.
        expert: which slice of it, or None for all of it.
        transposed: the parameter holds ``(in, out)``.
    """

    name: str
    module: nn.Module
    parameter: str = "weight"
    expert: int | None = None
    transposed: bool = False

    @property
    def stored(self) -> nn.Parameter:
        """The parameter that holds the weight."""
        return getattr(self.module, self.parameter)

    @property
    def stored_name(self) -> str:
        """The parameter's name in the model."""
        if self.expert is None:
            return f"{self.name}.{self.parameter}"
        return self.name.rpartition(".")[0]

    @property
    def weight(self) -> Tensor:
        """``(out, in)``, a view of the parameter."""
        weight = self.stored if self.expert is None else self.stored[self.expert]
        return weight.T if self.transposed else weight

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.module, "bias", None) if self.expert is None else None


def all_layers(model: PreTrainedModel) -> dict[str, Layer]:
    """Every linear layer by name, each shared module once."""
    return {
        layer.name: layer
        for name, module in model.named_modules()
        for layer in _layers_of(name, module)
    }


def _layers_of(name: str, module: nn.Module) -> Iterator[Layer]:
    if isinstance(module, nn.Linear | Conv1D):
        yield Layer(name, module, transposed=isinstance(module, Conv1D))
        return
    experts = getattr(module, "num_experts", None)
    for key, parameter in module.named_parameters(recurse=False):
        if parameter.ndim == 3 and parameter.shape[0] == experts:
            transposed = bool(getattr(module, "is_transposed", False))
            for expert in range(experts):
                yield Layer(f"{name}.{key}.{expert}", module, key, expert, transposed)


def tied_layers(model: PreTrainedModel, layers: Mapping[str, Layer]) -> set[str]:
    """Names of the ``layers`` that share their weight with an embedding."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {name for name, layer in layers.items() if id(layer.stored) in tables}


def check_untied(model: PreTrainedModel, layers: Mapping[str, Layer]) -> None:
    """Raises a RecipeError where a layer shares its weight with an embedding."""
    for name in sorted(tied_layers(model, layers)):
        raise RecipeError(
            f"layer {name}: it is tied to an embedding, which would change too; exclude it"
        )


def backbone_layers(model: PreTrainedModel) -> dict[str, Layer]:
    """Layers inside the backbone: no output head, and nothing tied to an embedding."""
    everything = all_layers(model)
    outside = tied_layers(model, everything)
    head = model.get_output_embeddings()
    inside = {id(module) for module in model.base_model.modules()}
    return {
        name: layer
        for name, layer in everything.items()
        if id(layer.module) in inside and layer.module is not head and name not in outside
    }


def selected_layers(model: PreTrainedModel, step: Step) -> dict[str, Layer]:
    """The layers that ``step`` touches, in the order of the module tree.

    Without ``include`` these are the layers of the backbone; the output head and tied
    embeddings are touched only if a pattern of ``include`` names them.

    Raises:
        RecipeError: a pattern that matches nothing, or no layer left.
    """
    everything = all_layers(model)
    include, exclude = step["include"], step["exclude"]
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in everything):
            raise RecipeError(
                f"{step.name}: the pattern {pattern!r} matches no linear layer of "
                f"{type(model).__name__}; its layers are named like "
                f"{next(iter(everything), None)!r}"
            )
    chosen = everything if include else backbone_layers(model)
    chosen = {
        name: layer
        for name, layer in chosen.items()
        if (not include or any(fnmatchcase(name, pattern) for pattern in include))
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    }
    if not chosen:
        raise RecipeError(f"{step.name}: no layer of {type(model).__name__} is left")
    return chosen
