"""Finds the layers that must be made smaller together, from gradients and not from names.

The input channels of a *consumer* (``down_proj``, ``o_proj``) are divided into units. Each unit is
computed from separate channels of the *producers* (``gate_proj`` and ``up_proj``; ``q_proj``,
``k_proj`` and ``v_proj``; or one fused layer). Removing a unit removes its rows of the producers
and its columns of the consumer:

- a unit of an FFN is one channel;
- a unit of attention is one key-value group with all its query heads. Units are the finest division
  of the input into equal consecutive parts that share no channel of a producer.

In one forward pass on a few tokens, the output of each layer is replaced by a random leaf tensor,
so that gradients of an input reach only the layers that feed it directly. A producer's channel
feeds a single unit if, for every bit of the unit indices, it feeds either units with that bit or
units without it. Therefore ``2 log2(units)`` backward passes find the unit of every channel, for
any order of the channels of a fused layer. Gradients with respect to channels of other units are
exactly zero.
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
    """Layers from which units are removed together.

    Attributes:
        consumer: the layer whose input is divided into units.
        columns: ``(in_features,)``, the unit of each input channel of the consumer.
        producers: the layers that compute that input.
        rows: for each producer ``(out_features,)``, the unit of each output channel.
        units: the number of units.
        tables: for each embedding with a column for each unit, such as the position biases of T5,
            ``(units,)``, the unit of each column. Couplings that share a table lose the same units.
    """

    consumer: Layer
    columns: Tensor
    producers: tuple[Layer, ...]
    rows: tuple[Tensor, ...]
    units: int
    tables: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all its layers."""
        return (*(layer.name for layer in self.producers), self.consumer.name)

    @property
    def elementwise(self) -> bool:
        """Whether a unit is one channel."""
        return self.units == len(self.columns)


def heads(model: PreTrainedModel, layers: Mapping[str, Layer]) -> list[Coupling]:
    """Return the units of attention, which are key-value groups with their query heads.

    Args:
        model: in evaluation mode.
        layers: the selected layers, by name.

    Raises:
        RecipeError: the model uses ALiBi, or does not run on the probe.
    """
    if _uses_alibi(model):
        raise RecipeError(
            f"heads: {type(model).__name__} uses ALiBi, whose slopes depend on the number of "
            "heads, so removing heads would change the slopes of the others"
        )
    return find_couplings(model, HEADS)


def _uses_alibi(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    configs = (config, getattr(config, "attn_config", None))
    return any(getattr(part, "alibi", False) for part in configs) or hasattr(
        model.base_model, "build_alibi_tensor"
    )


def ffn(model: PreTrainedModel, layers: Mapping[str, Layer]) -> list[Coupling]:
    """Return the units of FFNs, which are their channels.

    Args:
        model: in evaluation mode.
        layers: the selected layers, by name.

    Raises:
        RecipeError: an expert of a mixture is among ``layers``, or the model does not run on the
            probe.
    """
    for name, layer in layers.items():
        if layer.expert is not None:
            raise RecipeError(
                f"layer {name}: experts of a mixture share a parameter and cannot be made smaller; "
                f"{excluding_experts(layers)}"
            )
    return find_couplings(model, FFN)


def find_couplings(model: PreTrainedModel, kind: str) -> list[Coupling]:
    """Return the units of all FFNs or of all attention layers of ``model``.

    A layer whose input is the unchanged output of another layer, such as the second factor of a
    low-rank layer, is not the consumer of a coupling.

    Args:
        model: a model that takes tokens, in evaluation mode.
        kind: :data:`FFN` or :data:`HEADS`.

    Raises:
        RecipeError: the model does not run on the probe.
    """
    layers = {name: layer for name, layer in all_layers(model).items() if layer.expert is None}
    members = [names for names in blocks(model, list(layers)).values() if len(names) > 1]
    tables = _tables(model)
    frozen = [table for table in tables.values() if not table.requires_grad]
    try:
        for table in frozen:
            table.requires_grad_(True)
        probe = _run_probe(model, {name: layers[name] for names in members for name in names})
        return [
            _with_tables(coupling, probe, tables)
            for names in members
            for coupling in _block_couplings(probe, layers, names, kind)
        ]
    finally:
        for table in frozen:
            table.requires_grad_(False)


def _tables(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights of all embeddings except that of tokens, by name."""
    tokens = model.get_input_embeddings()
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module is not tokens
    }


def _with_tables(coupling: Coupling, probe: "_Probe", tables: Mapping[str, Tensor]) -> Coupling:
    """Return the coupling with the tables that its consumer's input depends on."""
    inputs = probe.inputs[coupling.consumer.name]
    units = {}
    for name, table in tables.items():
        if table.shape[1] != coupling.units or not _reached(inputs, [table])[0].any():
            continue
        rows = _rows(inputs, coupling.columns, coupling.units, {name: [table]})
        if rows is not None:
            units[name] = rows[0]
    return replace(coupling, tables=units)


@dataclass
class _Probe:
    """The input of each layer's first call, and the leaves that replaced its outputs."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    leaves: dict[str, list[Tensor]] = field(default_factory=dict)


@torch.enable_grad()
def _run_probe(model: PreTrainedModel, layers: Mapping[str, Layer]) -> _Probe:
    probe = _Probe()
    names = {id(layer.module): name for name, layer in layers.items()}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None  # a router can return a tuple
        name = names[id(module)]
        leaves = probe.leaves.setdefault(name, [])
        # Copies, because the model may change its tensors in place.
        probe.inputs.setdefault(name, inputs[0].clone())
        leaves.append(random_outputs(name, len(leaves), output, output.shape[-1]).requires_grad_())
        return leaves[-1].clone()

    with ExitStack() as stack:
        for layer in layers.values():
            stack.enter_context(layer.module.register_forward_hook(hook))
        run_probe(model)
    return probe


def _block_couplings(
    probe: _Probe, layers: Mapping[str, Layer], names: Sequence[str], kind: str
) -> Iterator[Coupling]:
    producers_of = {name: _producers(probe, name, names) for name in names}
    for name, producers in producers_of.items():
        shared = {x for other in names if other != name for x in producers_of[other]}
        if not producers or shared & producers.keys():
            continue
        inputs = probe.inputs[name]
        leaves = [leaf for leaves in producers.values() for leaf in leaves]
        if any(leaf.shape == inputs.shape and torch.equal(leaf, inputs) for leaf in leaves):
            continue
        width = inputs.shape[-1]
        for units in (number for number in range(width, 1, -1) if width % number == 0):
            columns = torch.arange(units, device=inputs.device).repeat_interleave(width // units)
            rows = _rows(inputs, columns, units, producers)
            if rows is not None:
                if (units == width) == (kind == FFN):
                    layer, feeding = layers[name], tuple(layers[x] for x in producers)
                    yield Coupling(layer, columns, feeding, rows, units)
                break


def _producers(probe: _Probe, name: str, names: Sequence[str]) -> dict[str, list[Tensor]]:
    """Return the leaves of the layers whose outputs reach a layer's input directly, by layer."""
    leaves = [(other, leaf) for other in names for leaf in probe.leaves.get(other, ())]
    inputs = probe.inputs.get(name)
    if inputs is None or not inputs.requires_grad:
        return {}
    producers: dict[str, list[Tensor]] = {}
    reached = _reached(inputs, [leaf for _, leaf in leaves])
    for (other, leaf), channels in zip(leaves, reached, strict=True):
        if channels.any():
            producers.setdefault(other, []).append(leaf)
    return producers


def _rows(
    inputs: Tensor, columns: Tensor, units: int, producers: Mapping[str, list[Tensor]]
) -> tuple[Tensor, ...] | None:
    """Return the unit that each channel feeds, ``(out_features,)`` for each producer.

    None if a channel feeds no unit or several, or if units differ in size.
    """
    names = [name for name, leaves in producers.items() for _ in leaves]
    leaves = [leaf for outputs in producers.values() for leaf in outputs]
    owners = [torch.zeros(leaf.shape[-1], dtype=torch.long, device=leaf.device) for leaf in leaves]
    for bit in range((units - 1).bit_length()):
        has_bit = (columns >> bit & 1).bool()
        with_bit, without_bit = (_reached(inputs, leaves, part) for part in (has_bit, ~has_bit))
        for owner, feeds_with, feeds_without in zip(owners, with_bit, without_bit, strict=True):
            if (feeds_with == feeds_without).any():
                return None
            owner += feeds_with.long() << bit
    rows: dict[str, Tensor] = {}
    for name, owner in zip(names, owners, strict=True):
        sizes = owner.bincount(minlength=units)
        if len(sizes) != units or len(sizes.unique()) != 1:
            return None
        # A layer that is used several times must feed the same units each time.
        if not torch.equal(rows.setdefault(name, owner), owner):
            return None
    return tuple(rows[name] for name in producers)


def _reached(inputs: Tensor, leaves: Sequence[Tensor], part: Tensor | None = None) -> list[Tensor]:
    """Return for each leaf ``(out_features,)`` whether a channel reaches a part of the input.

    Args:
        inputs: ``(..., in_features)``.
        leaves: ``(..., out_features)`` each.
        part: ``(in_features,)``, the channels of the part; None for all.
    """
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
