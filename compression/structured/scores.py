"""What a unit is worth.

``magnitude``
    ``sqrt(sum W^2)`` over all weights that the unit owns: rows of the producers and columns of
    the consumer. The group norm of DepGraph (Fang et al. 2023, equation 4) and, for a single
    layer, the filter norm of Li et al. 2017; biases do not count.
``activation``
    ``mean_t ||x_tu||_2 * ||W_u||_F`` over the tokens ``t``, with ``x_tu`` the unit's part of the
    consumer's input and ``W_u`` its columns: Wanda's ``|W| ||X||`` (Sun et al. 2024) for a whole
    unit. For one channel it is the mean norm of what the unit adds to the layer's output,
    and for a head a bound of it.
``taylor``
    ``mean_n |sum x * dL_n/dx|`` over texts ``n``, the sum over the text's tokens and the unit's
    part ``x`` of the consumer's input. It is ``|dL_n/dg|`` of a gate ``g = 1`` on the unit, and so
    what the loss changes by without it, to first order: for channels Molchanov et al. 2017,
    equation 8, for heads Michel et al. 2019, equation 2.

A layer that is used several times (ALBERT) has one gate for all its uses, and all its uses
count as tokens. Texts are taken one at a time and without their padding, which counts for nothing.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression_gates.compression.errors import CompressionError, naming, unreached
from compression_gates.compression.model.capture import Batch, one_by_one, watched
from compression_gates.compression.model.gradients import is_causal, is_seq2seq, losses
from compression_gates.compression.structured.coupling import Coupling


def unit_scores(
    model: PreTrainedModel, couplings: Sequence[Coupling], score: str, batches: Sequence[Batch]
) -> list[Tensor]:
    """``(units,)`` in float64 for each coupling.

    Args:
        score: ``magnitude``, ``activation`` or ``taylor``.
        batches: calibration data; none for magnitude.

    Raises:
        CompressionError: no text where some is needed, a layer that no token reaches, or scores
            that are not finite.
    """
    found = _SCORES[score](model, couplings, batches)
    for coupling, scores in zip(couplings, found, strict=True):
        if not scores.isfinite().all():
            raise CompressionError(f"layer {coupling.consumer.name}: its scores are not finite")
    return found


@torch.no_grad()
def magnitude(
    model: PreTrainedModel, couplings: Sequence[Coupling], batches: Sequence[Batch] = ()
) -> list[Tensor]:
    found = []
    for coupling in couplings:
        with naming(coupling.consumer.name):
            found.append(_magnitude(coupling).sqrt())
    return found


def _magnitude(coupling: Coupling) -> Tensor:
    found = _consumer_squares(coupling)
    for layer, rows in zip(coupling.producers, coupling.rows, strict=True):
        found = found.index_add(0, rows, layer.weight.double().square().sum(dim=1))
    return found


def _consumer_squares(coupling: Coupling) -> Tensor:
    """``||W_u||_F^2`` of each unit's columns of the consumer."""
    squares = coupling.consumer.weight.detach().double().square().sum(dim=0)
    return _by_unit(squares, coupling)


def _by_unit(channels: Tensor, coupling: Coupling) -> Tensor:
    """Sums ``(..., in)`` over the channels of each unit, to ``(..., units)``."""
    empty = channels.new_zeros(*channels.shape[:-1], coupling.units)
    return empty.index_add(-1, coupling.columns, channels)


@torch.no_grad()
def activation(
    model: PreTrainedModel, couplings: Sequence[Coupling], batches: Sequence[Batch]
) -> list[Tensor]:
    by_name = {coupling.consumer.name: coupling for coupling in couplings}
    norms = dict.fromkeys(by_name, 0.0)
    tokens = dict.fromkeys(by_name, 0)

    def see(name: str, inputs: Tensor) -> None:
        squares = inputs.flatten(0, -2).double().square()
        norms[name] = norms[name] + _by_unit(squares, by_name[name]).sqrt().sum(dim=0)
        tokens[name] += len(squares)

    with watched(model, {name: by_name[name].consumer for name in by_name}, see):
        for text in _texts(model, batches):
            model(**text)
    for name, seen in tokens.items():
        if not seen:
            raise unreached(name)
    return [
        norms[name] / tokens[name] * _consumer_squares(coupling).sqrt()
        for name, coupling in by_name.items()
    ]


@torch.enable_grad()
def taylor(
    model: PreTrainedModel, couplings: Sequence[Coupling], batches: Sequence[Batch]
) -> list[Tensor]:
    by_module = {id(coupling.consumer.module): n for n, coupling in enumerate(couplings)}
    totals = [
        torch.zeros(coupling.units, dtype=torch.float64, device=coupling.columns.device)
        for coupling in couplings
    ]
    seen: list[tuple[int, Tensor]] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first, *others = inputs
        if not first.requires_grad:
            first = first.detach().requires_grad_()
        seen.append((by_module[id(module)], first))
        return first, *others

    texts = [text for text in _texts(model, batches) if _has_loss(model, text)]
    if not texts:
        raise CompressionError("no text has a next token to predict")
    handles = [c.consumer.module.register_forward_pre_hook(hook) for c in couplings]
    try:
        for loss, _ in losses(model, texts, desc="taylor"):
            if missing := set(range(len(couplings))) - {number for number, _ in seen}:
                raise unreached(couplings[min(missing)].consumer.name)
            gradients = torch.autograd.grad(loss, [x for _, x in seen], allow_unused=True)
            gates = [torch.zeros_like(total) for total in totals]
            for (number, inputs), gradient in zip(seen, gradients, strict=True):
                if gradient is not None:
                    products = (inputs.detach().double() * gradient.double()).flatten(0, -2)
                    gates[number] += _by_unit(products.sum(dim=0), couplings[number])
            for total, gate in zip(totals, gates, strict=True):
                total += gate.abs() / len(texts)
            seen.clear()
    finally:
        for handle in handles:
            handle.remove()
    return totals


def _texts(model: PreTrainedModel, batches: Sequence[Batch]) -> list[Batch]:
    if not batches:
        raise CompressionError("scores of units need at least one batch of text")
    seq2seq = is_seq2seq(model)
    return [text for batch in batches for text in one_by_one(batch, seq2seq)]


def _has_loss(model: PreTrainedModel, text: Batch) -> bool:
    """Whether there is anything to predict: a single token has no next one."""
    return not is_causal(model) or text["input_ids"].shape[1] > 1


_SCORES: dict[str, Callable[..., list[Tensor]]] = {
    "magnitude": magnitude,
    "activation": activation,
    "taylor": taylor,
}
