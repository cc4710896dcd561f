"""Which layers become smaller together, found by probing gradients and never by name.

Channels of a *consumer*'s input (``down_proj``, ``o_proj``) fall into units, and each unit is
computed from channels of its own of the *producers* (``gate_proj`` and ``up_proj``; ``q_proj``,
``k_proj`` and ``v_proj``, or one fused layer). Take a unit away and its rows of the producers and
its columns of the consumer go with it:

- a unit of an FFN is one channel;
- a unit of attention is one key-value group with all of its query heads: the finest parts of the
  input, equal and consecutive, that share no channel of any producer.

One forward on a few tokens cuts the graph behind every layer, by putting a random leaf in place
of its output, so that a gradient reaches exactly the layers that feed an input directly. A
producer's channel feeds one unit only if, for every bit of the units' numbers, it feeds units
with that bit or units without it but not both. So ``2 log2(units)`` backward passes find every
channel's unit, in whatever order a fused layer has them. Gradients outside a unit are exact
zeros: nothing is ever added to them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import blocks
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.layers import Layer, all_layers, excluding_experts
from compression_gates.compression.model.tracing import random_outputs, run_probe

FFN, HEADS = "ffn", "heads"


@dataclass(frozen=True, eq=False)
class Coupling:
    """Layers that lose units together.

    Attributes:
        consumer: whose input the units are parts of.
        columns: ``(in,)`` unit of each of its input channels.
        producers: what computes that input.
        rows: for each producer ``(out,)``, unit of each of its output channels.
        units: how many there are.
        tables: for each embedding with a column for each unit, such as T5's table of position
            biases, ``(units,)`` the unit of each column. Couplings that share one lose the same
            units.
    """

    consumer: Layer
    columns: Tensor
    producers: tuple[Layer, ...]
    rows: tuple[Tensor, ...]
    units: int
    tables: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its layers."""
        return (*(layer.name for layer in self.producers), self.consumer.name)

    @property
    def elementwise(self) -> bool:
        """Whether a unit is one channel."""
        return self.units == len(self.columns)


def heads(model: PreTrainedModel, layers: Mapping[str, Layer]) -> list[Coupling]:
    """The units of attention: key-value groups with their query heads.

    Raises:
        RecipeError: biases of attention that follow from the number of heads.
    """
    if _has_alibi(model):
        raise RecipeError(
            f"heads: {type(model).__name__} biases attention by ALiBi, whose slopes follow from "
            "the number of heads: with fewer heads those that stay would get others"
        )
    return find_couplings(model, HEADS)


def _has_alibi(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    told = (
        getattr(part, "alibi", False) for part in (config, getattr(config, "attn_config", None))
    )
    return any(told) or hasattr(model.base_model, "build_alibi_tensor")


def ffn(model: PreTrainedModel, layers: Mapping[str, Layer]) -> list[Coupling]:
    """The units of FFNs: their channels.

    Raises:
        RecipeError: an expert of a mixture is among ``layers``.
    """
    for name, layer in layers.items():
        if layer.expert is not None:
            raise RecipeError(
                f"layer {name}: experts of a mixture share a parameter and cannot be made smaller; "
                f"{excluding_experts(layers)}"
            )
    return find_couplings(model, FFN)


def find_couplings(model: PreTrainedModel, kind: str) -> list[Coupling]:
    """The units of every block of ``model``: of its FFNs or of its attention.

    Args:
        model: any that runs on tokens.
        kind: :data:`FFN` or :data:`HEADS`.

    Layers that are given other layers' outputs as they are make no FFN: they are factors.
    """
    layers = {name: layer for name, layer in all_layers(model).items() if layer.expert is None}
    members = [names for names in blocks(model, list(layers)).values() if len(names) > 1]
    tables = _tables(model)
    frozen = [table for table in tables.values() if not table.requires_grad]
    try:
        for table in frozen:
            table.requires_grad_(True)
        probe = _probed(model, {name: layers[name] for names in members for name in names})
        found = [
            coupling for names in members for coupling in _in_block(probe, layers, names, kind)
        ]
        return [_with_tables(coupling, probe, tables) for coupling in found]
    finally:
        for table in frozen:
            table.requires_grad_(False)


def _tables(model: PreTrainedModel) -> dict[str, Tensor]:
    """Weights of the embeddings beside those of tokens."""
    tokens = model.get_input_embeddings()
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module is not tokens
    }


def _with_tables(coupling: Coupling, probe: "_Probe", tables: Mapping[str, Tensor]) -> Coupling:
    inputs = probe.inputs[coupling.consumer.name]
    found = {}
    for name, table in tables.items():
        if table.shape[1] != coupling.units or not _reached(inputs, [table])[0].any():
            continue
        rows = _rows(inputs, coupling.columns, coupling.units, {name: [table]})
        if rows is not None:
            found[name] = rows[0]
    return replace(coupling, tables=found)


@dataclass
class _Probe:
    """What each layer was given at its first use, and the leaves in place of its outputs."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    leaves: dict[str, list[Tensor]] = field(default_factory=dict)


@torch.enable_grad()
def _probed(model: PreTrainedModel, layers: Mapping[str, Layer]) -> _Probe:
    probe = _Probe()
    names = {id(layer.module): name for name, layer in layers.items()}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None  # a router, which gives out more than the product with its weight
        name = names[id(module)]
        leaves = probe.leaves.setdefault(name, [])
        # A copy, that what happens in place behind the layer does not reach.
        probe.inputs.setdefault(name, inputs[0].clone())
        leaves.append(random_outputs(name, len(leaves), output, output.shape[-1]).requires_grad_())
        return leaves[-1].clone()

    with ExitStack() as stack:
        for layer in layers.values():
            stack.enter_context(layer.module.register_forward_hook(hook))
        run_probe(model)
    return probe


def _in_block(
    probe: _Probe, layers: Mapping[str, Layer], names: Sequence[str], kind: str
) -> Iterator[Coupling]:
    feeding = {name: _feeding(probe, name, names) for name in names}
    for name, producers in feeding.items():
        others = {x for other in names if other != name for x in feeding[other]}
        if not producers or others & producers.keys():
            continue
        inputs = probe.inputs[name]
        if any(_is_passed_on(leaf, inputs) for leaves in producers.values() for leaf in leaves):
            continue
        found = _finest(inputs, producers)
        if found is None:
            continue
        columns, rows, units = found
        if (units == len(columns)) == (kind == FFN):
            yield Coupling(layers[name], columns, tuple(layers[x] for x in producers), rows, units)


def _feeding(probe: _Probe, name: str, names: Sequence[str]) -> dict[str, list[Tensor]]:
    """The layers whose outputs reach this layer's input with no layer in between."""
    leaves = [(other, leaf) for other in names for leaf in probe.leaves.get(other, ())]
    inputs = probe.inputs.get(name)
    if inputs is None or not inputs.requires_grad:
        return {}
    found: dict[str, list[Tensor]] = {}
    reached = _reached(inputs, [leaf for _, leaf in leaves])
    for (other, leaf), channels in zip(leaves, reached, strict=True):
        if channels.any():
            found.setdefault(other, []).append(leaf)
    return found


def _is_passed_on(leaf: Tensor, inputs: Tensor) -> bool:
    return leaf.shape == inputs.shape and torch.equal(leaf, inputs)


def _finest(
    inputs: Tensor, producers: Mapping[str, list[Tensor]]
) -> tuple[Tensor, tuple[Tensor, ...], int] | None:
    """The units of the columns and of each producer's rows, and how many; None if there is one."""
    width = inputs.shape[-1]
    for units in (number for number in range(width, 1, -1) if width % number == 0):
        columns = torch.arange(units, device=inputs.device).repeat_interleave(width // units)
        rows = _rows(inputs, columns, units, producers)
        if rows is not None:
            return columns, rows, units
    return None


def _rows(
    inputs: Tensor, columns: Tensor, units: int, producers: Mapping[str, list[Tensor]]
) -> tuple[Tensor, ...] | None:
    """``(out,)`` for each producer: the one unit that each channel feeds, or None if a channel
    feeds no unit or several, or if units differ in size."""
    names = [name for name, leaves in producers.items() for _ in leaves]
    leaves = [leaf for found in producers.values() for leaf in found]
    owners = [torch.zeros(leaf.shape[-1], dtype=torch.long, device=leaf.device) for leaf in leaves]
    for bit in range((units - 1).bit_length()):
        side = (columns >> bit & 1).bool()
        with_bit, without = (_reached(inputs, leaves, part) for part in (side, ~side))
        for owner, yes, no in zip(owners, with_bit, without, strict=True):
            if (yes == no).any():
                return None
            owner += yes.long() << bit
    found: dict[str, Tensor] = {}
    for name, owner in zip(names, owners, strict=True):
        sizes = owner.bincount(minlength=units)
        # A layer that is used twice must feed the same units both times.
        if len(sizes) != units or len(sizes.unique()) != 1:
            return None
        if not torch.equal(found.setdefault(name, owner), owner):
            return None
    return tuple(found[name] for name in producers)


def _reached(inputs: Tensor, leaves: Sequence[Tensor], part: Tensor | None = None) -> list[Tensor]:
    """``(out,)`` of each leaf: whether the channel reaches the input, or a part of its channels."""
    weights = random_outputs("weights", 0, inputs, inputs.shape[-1])
    if part is not None:
        weights = weights * part
    gradients = torch.autograd.grad(inputs, leaves, weights, retain_graph=True, allow_unused=True)
    return [
        torch.zeros(leaf.shape[-1], dtype=torch.bool, device=leaf.device)
        if gradient is None
        else (gradient != 0).flatten(0, -2).any(dim=0)
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ]
