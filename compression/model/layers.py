"""The linear layers of a model, found by one walk over its modules, whatever the architecture.

A layer is a weight that inputs are multiplied with: an :class:`torch.nn.Linear`, a ``Conv1D`` of
GPT-2 (whose weight is stored the other way round), or one expert of a mixture, which is a slice
of a parameter with three dimensions.

A *router* is a layer that decides which experts a token is sent to, or how much of a shared expert
it takes. Its output is a few numbers on which everything behind it depends, so it is left alone
like the output head unless a pattern names it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compression_gates.compression.errors import RecipeError
from compression_gates.compression.recipe import Step

_EXPERTS = "experts"
"""What models call the module that holds the experts of a mixture."""
_GATES = ("gate", "shared_expert_gate")
"""What they call a layer beside it that decides, where it isn't a router by name."""


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
        weight = self.stored
        if self.expert is not None:
            weight = stack_of(self.module, weight)[self.expert]
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

    @property
    def routed(self) -> bool:
        """Whether it belongs to an expert, which some tokens never reach."""
        return self.expert is not None or _EXPERTS in self.name.split(".")[:-1]


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
    for key, parameter in stacked_experts(name, module):
        for expert in range(len(stack_of(module, parameter))):
            yield Layer(f"{name}.{key}.{expert}", module, key, expert, is_transposed(module, key))


def stacked_experts(name: str, module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters of a module that hold a matrix for each of its experts, and their names.

    Either the module says how many experts it has, or it is in a module called ``experts`` and the
    parameter is called ``*_proj``.
    """
    count = getattr(module, "num_experts", None)
    inside = _EXPERTS in name.split(".")
    return [
        (key, parameter)
        for key, parameter in module.named_parameters(recurse=False)
        if (stack := stack_of(module, parameter)).ndim == 3
        and (len(stack) == count or stack is not parameter or (inside and key.endswith("_proj")))
    ]


def stack_of(module: nn.Module, parameter: Tensor) -> Tensor:
    """``(experts, rows, columns)``, a view of an experts' parameter. DBRX stores their matrices one
    below the other, in two dimensions."""
    count = getattr(module, "moe_num_experts", None)
    if parameter.ndim == 2 and isinstance(count, int) and parameter.shape[0] % count == 0:
        return parameter.view(count, -1, parameter.shape[1])
    return parameter


def excluding_experts(layers: Mapping[str, Layer]) -> str:
    """The setting that leaves out those of ``layers`` that are slices of an experts' parameter."""
    experts = {name for name, layer in layers.items() if layer.expert is not None}
    patterns: dict[str, None] = {}
    for name in sorted(experts):
        *_, module, parameter, _ = name.split(".")
        pattern = f"*.{module}.*"
        if any(fnmatchcase(other, pattern) for other in layers.keys() - experts):
            pattern = f"*.{module}.{parameter}.*"
        patterns[pattern] = None
    return f"exclude={'|'.join(patterns)}"


def is_transposed(module: nn.Module, key: str = "weight") -> bool:
    """Whether a module stores a weight ``(in, out)``.

    Experts of Llama 4 do and do not say so; the sizes of their two weights do. Of DBRX's three
    weights ``w2`` is stored like the others and used the other way round.
    """
    if isinstance(module, Conv1D) or hasattr(module, "is_transposed"):
        return isinstance(module, Conv1D) or bool(module.is_transposed)
    if hasattr(module, "moe_num_experts"):
        return key == "w2"
    up, down = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
    if isinstance(up, nn.Parameter) and isinstance(down, nn.Parameter):
        return up.ndim == down.ndim == 3 and up.shape[2] == 2 * down.shape[1]
    return False


def routers(model: PreTrainedModel) -> set[str]:
    """Names of the layers that route tokens to the experts of a mixture, or gate a shared one.

    They are called so, or stand beside the experts and give out a number for each, or a single one.
    """
    outputs: dict[str, set[int]] = {}
    for name, module in model.named_modules():
        parent, _, last = name.rpartition(".")
        if stacks := stacked_experts(name, module):
            counts = {len(stack_of(module, stack)) for _, stack in stacks}
            outputs.setdefault(parent, {1}).update(counts)
        elif last == _EXPERTS and isinstance(module, nn.ModuleList | nn.ModuleDict):
            outputs.setdefault(parent, {1}).add(len(module))
    found = set()
    for name, layer in all_layers(model).items():
        parent, _, last = name.rpartition(".")
        beside = layer.expert is None and layer.out_features in outputs.get(parent, ())
        if beside or "router" in name or (last in _GATES and parent in outputs):
            found.add(name)
    return found


def outside_layers(model: PreTrainedModel) -> tuple[float, str]:
    """Which share of the weights is in matrices, or more dimensions, that belong to no layer,
    embedding or norm, so that no method finds them; and the name of the largest one."""
    known = {id(layer.stored) for layer in all_layers(model).values()}
    known |= {
        id(parameter)
        for module in model.modules()
        if re.search("Embedding|Norm", type(module).__name__)
        for parameter in module.parameters(recurse=False)
    }
    others = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and id(parameter) not in known
    }
    total = sum(parameter.numel() for parameter in model.parameters())
    return sum(others.values()) / max(total, 1), max(others, key=others.get, default="")


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
    """Layers inside the backbone: no output head, no router, and nothing tied to an embedding."""
    everything = all_layers(model)
    outside = tied_layers(model, everything) | routers(model)
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
    embeddings are touched only if a pattern of ``include`` matches them, and routers only if one
    names them: it matches nothing else.

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
    left_alone = routers(model) - _named_alone(include, routers(model), everything)
    chosen = {
        name: layer
        for name, layer in chosen.items()
        if name not in left_alone
        and (not include or any(fnmatchcase(name, pattern) for pattern in include))
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    }
    if not chosen:
        raise RecipeError(f"{step.name}: no layer of {type(model).__name__} is left")
    return chosen


def _named_alone(include: Iterable[str], names: set[str], everything: Iterable[str]) -> set[str]:
    """Those of ``names`` that a pattern matches which matches nothing else."""
    matches = [{name for name in everything if fnmatchcase(name, p)} for p in include]
    return set().union(*(found for found in matches if found <= names))
