"""Importance scores of units, by which structured pruning chooses the units to remove.

``magnitude``
    ``sqrt(sum W^2)`` over all weights of the unit, which are rows of the producers and columns of
    the consumer. Biases are not included. It is the group norm of DepGraph (Fang et al. 2023,
    equation 4), and for a single layer the filter norm of Li et al. 2017.
``activation``
    ``mean_t ||x_tu||_2 * ||W_u||_F`` over the tokens ``t``, with ``x_tu`` the unit's part of the
    consumer's input and ``W_u`` its columns. This is Wanda's ``|W| ||X||`` (Sun et al. 2024) for a
    whole unit. For a single channel it is the mean norm of the unit's contribution to the output of
    the layer, and for a head an upper bound of it.
``taylor``
    ``mean_n |sum x * dL_n/dx|`` over the texts ``n``. The sum is over the tokens of the text and
    the unit's part ``x`` of the consumer's input. It equals ``|dL_n/dg|`` for a gate ``g = 1`` on
    the unit, which is the first-order change of the loss when the unit is removed: for channels
    Molchanov et al. 2017, equation 8; for heads Michel et al. 2019, equation 2.

A layer that is used several times, as in ALBERT, has one gate for all its uses, and all its uses
count as tokens. Texts are processed one at a time without padding.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression_gates.compression.errors import CompressionError, naming, unreached
from compression_gates.compression.model.capture import Batch, capture_inputs, one_by_one
from compression_gates.compression.model.gradients import is_causal, is_seq2seq, losses
from compression_gates.compression.structured.coupling import Coupling


def unit_scores(
    model: PreTrainedModel, couplings: Sequence[Coupling], score: str, batches: Sequence[Batch]
) -> list[Tensor]:
    """Return the scores ``(units,)`` of each coupling in float64.

    Args:
        model: in evaluation mode.
        couplings: the units to score.
        score: ``magnitude``, ``activation`` or ``taylor``.
        batches: the calibration data, which ``magnitude`` does not use.

    Raises:
        CompressionError: there is no text, no token reaches a layer, or scores are not finite.
    """
    results = _SCORES[score](model, couplings, batches)
    for coupling, scores in zip(couplings, results, strict=True):
        if not scores.isfinite().all():
            raise CompressionError(
                f"layer {coupling.consumer.name}: the scores of its units are not finite"
            )
    return results


@torch.no_grad()
def magnitude(
    model: PreTrainedModel, couplings: Sequence[Coupling], batches: Sequence[Batch] = ()
) -> list[Tensor]:
    """Return the scores ``magnitude``; see :func:`unit_scores`."""
    results = []
    for coupling in couplings:
        with naming(coupling.consumer.name):
            squares = _consumer_squares(coupling)
            for layer, rows in zip(coupling.producers, coupling.rows, strict=True):
                squares = squares.index_add(0, rows, layer.weight.double().square().sum(dim=1))
            results.append(squares.sqrt())
    return results


def _consumer_squares(coupling: Coupling) -> Tensor:
    """Return ``||W_u||_F^2`` ``(units,)`` of each unit's columns of the consumer."""
    squares = coupling.consumer.weight.detach().double().square().sum(dim=0)
    return _by_unit(squares, coupling)


def _by_unit(channels: Tensor, coupling: Coupling) -> Tensor:
    """Sum values ``(..., in_features)`` over the channels of each unit, to ``(..., units)``."""
    zeros = channels.new_zeros(*channels.shape[:-1], coupling.units)
    return zeros.index_add(-1, coupling.columns, channels)


@torch.no_grad()
def activation(
    model: PreTrainedModel, couplings: Sequence[Coupling], batches: Sequence[Batch]
) -> list[Tensor]:
    """Return the scores ``activation``; see :func:`unit_scores`."""
    by_name = {coupling.consumer.name: coupling for coupling in couplings}
    norms = dict.fromkeys(by_name, 0.0)
    tokens = dict.fromkeys(by_name, 0)

    def see(name: str, inputs: Tensor) -> None:
        squares = inputs.flatten(0, -2).double().square()
        norms[name] = norms[name] + _by_unit(squares, by_name[name]).sqrt().sum(dim=0)
        tokens[name] += len(squares)

    with capture_inputs(model, {name: by_name[name].consumer for name in by_name}, see):
        for text in _texts(model, batches):
            model(**text)
    for name, count in tokens.items():
        if not count:
            raise unreached(name)
    return [
        norms[name] / tokens[name] * _consumer_squares(coupling).sqrt()
        for name, coupling in by_name.items()
    ]


@torch.enable_grad()
def taylor(
    model: PreTrainedModel, couplings: Sequence[Coupling], batches: Sequence[Batch]
) -> list[Tensor]:
    """Return the scores ``taylor``; see :func:`unit_scores`."""
    by_module = {id(coupling.consumer.module): n for n, coupling in enumerate(couplings)}
    totals = [
        torch.zeros(coupling.units, dtype=torch.float64, device=coupling.columns.device)
        for coupling in couplings
    ]
    captured: list[tuple[int, Tensor]] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first, *others = inputs
        if not first.requires_grad:
            first = first.detach().requires_grad_()
        captured.append((by_module[id(module)], first))
        return first, *others

    # A causal model has no loss on a single token.
    texts = [
        text
        for text in _texts(model, batches)
        if not is_causal(model) or text["input_ids"].shape[1] > 1
    ]
    if not texts:
        raise CompressionError("no text has a next token to predict")
    handles = [c.consumer.module.register_forward_pre_hook(hook) for c in couplings]
    try:
        for loss, _ in losses(model, texts, desc="taylor"):
            if missing := set(range(len(couplings))) - {number for number, _ in captured}:
                raise unreached(couplings[min(missing)].consumer.name)
            gradients = torch.autograd.grad(loss, [x for _, x in captured], allow_unused=True)
            gate_gradients = [torch.zeros_like(total) for total in totals]
            for (number, inputs), gradient in zip(captured, gradients, strict=True):
                if gradient is not None:
                    products = (inputs.detach().double() * gradient.double()).flatten(0, -2)
                    gate_gradients[number] += _by_unit(products.sum(dim=0), couplings[number])
            for total, gate_gradient in zip(totals, gate_gradients, strict=True):
                total += gate_gradient.abs() / len(texts)
            captured.clear()
    finally:
        for handle in handles:
            handle.remove()
    return totals


def _texts(model: PreTrainedModel, batches: Sequence[Batch]) -> list[Batch]:
    """Return the texts of the batches one by one, without padding."""
    if not batches:
        raise CompressionError("scores of units need at least one batch of text")
    seq2seq = is_seq2seq(model)
    return [text for batch in batches for text in one_by_one(batch, seq2seq)]


_SCORES: dict[str, Callable[..., list[Tensor]]] = {
    "magnitude": magnitude,
    "activation": activation,
    "taylor": taylor,
}
