"""Find the linear layers of a model of any architecture.

A layer is a weight that inputs are multiplied by: an :class:`torch.nn.Linear`, a ``Conv1D`` of
GPT-2 (whose weight is stored transposed), or one expert of a mixture, which is a slice of a
parameter with three dimensions.

A *router* is a layer that assigns tokens to experts, or scales the output of a shared expert. All
later computation depends on its few outputs, so, like the output head, it is compressed only if a
pattern selects it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compression_gates.compression.errors import RecipeError
from compression_gates.compression.recipe import Step

_EXPERTS = "experts"
"""Name of the module that contains the experts of a mixture."""
_GATES = ("gate", "shared_expert_gate")
"""Names of routers beside that module, other than names with ``router``."""


@dataclass(frozen=True)
class Layer:
    """A reference to one weight; changing ``weight`` in place changes the model.

    Attributes:
        name: name of the module; for an expert ``MODULE.PARAMETER.NUMBER``.
        module: the module that owns the parameter.
        parameter: name of the parameter in the module.
        expert: index of the slice of the parameter, or None for all of it.
        transposed: whether the parameter is stored as ``(in, out)``.
    """

    name: str
    module: nn.Module
    parameter: str = "weight"
    expert: int | None = None
    transposed: bool = False

    @property
    def stored(self) -> nn.Parameter:
        """The parameter that contains the weight."""
        return getattr(self.module, self.parameter)

    @property
    def stored_name(self) -> str:
        """Name of the parameter in the model."""
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
        """Whether the layer belongs to an expert, which processes only the tokens routed to it."""
        return self.expert is not None or _EXPERTS in self.name.split(".")[:-1]


def all_layers(model: PreTrainedModel) -> dict[str, Layer]:
    """Return every linear layer by name; shared modules appear once."""
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
    """Return the parameters of a module that contain a matrix per expert, with their names.

    Their first dimension is the module's ``num_experts``, or they are named ``*_proj`` and are in a
    module named ``experts``.
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
    """Return a view ``(experts, rows, columns)`` of a parameter of experts.

    DBRX stores the matrices stacked in two dimensions. Other parameters are returned unchanged.
    """
    count = getattr(module, "moe_num_experts", None)
    if parameter.ndim == 2 and isinstance(count, int) and parameter.shape[0] % count == 0:
        return parameter.view(count, -1, parameter.shape[1])
    return parameter


def excluding_experts(layers: Mapping[str, Layer]) -> str:
    """Return the setting that excludes the ``layers`` that are slices of an experts' parameter."""
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
    """Return whether a module stores a weight as ``(in, out)``.

    Experts of Llama 4 do so without an attribute for it, so the shapes of their two weights decide.
    DBRX stores ``w2`` in the same shape as its other weights and uses it transposed.
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
    """Return the names of the layers that route tokens to experts, or gate a shared expert.

    They are recognised by their names, or by being siblings of the experts with one output per
    expert or a single output.
    """
    outputs: dict[str, set[int]] = {}
    for name, module in model.named_modules():
        parent, _, last = name.rpartition(".")
        if stacks := stacked_experts(name, module):
            counts = {len(stack_of(module, stack)) for _, stack in stacks}
            outputs.setdefault(parent, {1}).update(counts)
        elif last == _EXPERTS and isinstance(module, nn.ModuleList | nn.ModuleDict):
            outputs.setdefault(parent, {1}).add(len(module))
    names = set()
    for name, layer in all_layers(model).items():
        parent, _, last = name.rpartition(".")
        sibling = layer.expert is None and layer.out_features in outputs.get(parent, ())
        if sibling or "router" in name or (last in _GATES and parent in outputs):
            names.add(name)
    return names


def outside_layers(model: PreTrainedModel) -> tuple[float, str]:
    """Return the share of the weights that no method can select, and the largest such parameter.

    These are parameters with at least two dimensions outside layers, embeddings and norms.
    """
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
    """Return the names of the ``layers`` that share their weight with an embedding."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {name for name, layer in layers.items() if id(layer.stored) in tables}


def check_untied(model: PreTrainedModel, layers: Mapping[str, Layer]) -> None:
    """Raise a RecipeError if a layer shares its weight with an embedding."""
    for name in sorted(tied_layers(model, layers)):
        raise RecipeError(
            f"layer {name}: it is tied to an embedding, which would change as well; exclude it"
        )


def backbone_layers(model: PreTrainedModel) -> dict[str, Layer]:
    """Return the layers of the backbone: no output head, no router, no tied embedding."""
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
    """Return the layers that ``step`` selects, in the order of the module tree.

    Without ``include`` these are the layers of the backbone. The output head and tied embeddings
    are selected only by a matching pattern of ``include``, and routers only by a pattern that
    matches nothing but routers.

    Raises:
        RecipeError: a pattern matches nothing, or no layer is selected.
    """
    everything = all_layers(model)
    include, exclude = step["include"], step["exclude"]
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in everything):
            raise RecipeError(
                f"{step.name}: the pattern {pattern!r} matches no linear layer of "
                f"{type(model).__name__}; an example of its layers is "
                f"{next(iter(everything), None)!r}"
            )
    if include:
        matches = [{name for name in everything if fnmatchcase(name, p)} for p in include]
        router_names = routers(model)
        names = set().union(*(m if m <= router_names else m - router_names for m in matches))
    else:
        names = backbone_layers(model).keys()
    selected = {
        name: layer
        for name, layer in everything.items()
        if name in names and not any(fnmatchcase(name, pattern) for pattern in exclude)
    }
    if not selected:
        raise RecipeError(f"{step.name}: no layer of {type(model).__name__} is left")
    return selected
