"""Read what was done to each layer of a loaded checkpoint, given its baseline."""

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.low_rank.factors import LowRank
from compression_gates.compression.model.layers import Layer, all_layers, tied_layers
from compression_gates.compression.naive.declared import (
    UnknownFormError,
    declared_quantization,
    is_readable,
)
from compression_gates.compression.naive.grid_from_values import quantization_of_values
from compression_gates.compression.naive.structure import restructure
from compression_gates.compression.naive.treatment import Treatment, Treatments
from compression_gates.compression.recipe import NO_CHANGE

PATTERN_SIZES = (4, 8, 16)
"""Sizes M of the N:M patterns that are recognized."""
ROUNDED_ZEROS, FEWEST_ZEROS = 0.05, 0.001
"""A layer is pruned if its share of zeros exceeds that of its naive rounding, or without rounding
that of the baseline, by more than this."""
LOW_RANK = 0.95
"""Largest rank, as a share of the full rank, that counts as lower."""
CERTAIN_ZEROS = 0.1
"""Share of zeros that no rounding causes. With fewer, and without a recognized grid, a layer is
pruned only if most of its other weights are the baseline's."""
ROUNDED_EMBEDDING = 0.2
"""Largest relative difference (Frobenius norm) of an embedding that was rounded."""
RANK_TRIALS = 4
"""Number of layers whose singular values are computed; if none has a lower rank, the others are not
examined."""


@torch.no_grad()
def read_treatments(candidate: PreTrainedModel, baseline: PreTrainedModel) -> Treatments:
    """Return what was done to the linear layers of a candidate. Neither model is changed.

    Args:
        candidate, baseline: loaded models, in evaluation mode.
    """
    try:
        return _read(candidate, baseline)
    except UnknownFormError as error:
        return Treatments(reason=str(error))


def _read(candidate: PreTrainedModel, baseline: PreTrainedModel) -> Treatments:
    dtype = ""
    if candidate.dtype != baseline.dtype:
        dtype = str(candidate.dtype).removeprefix("torch.")
    structure = _structure(candidate, baseline, dtype)
    if structure.reason:
        return structure
    if structure.shapes or structure.layers or dtype:
        compressed = Compressed(copy.deepcopy(baseline).to(candidate.dtype), NO_CHANGE)
        try:
            restructure(compressed, structure)
        except CompressionError as error:
            return Treatments(reason=str(error))
        baseline = compressed.model
    layers, unexplained = dict(structure.layers), list(structure.unexplained)
    before, after = all_layers(baseline), all_layers(candidate)
    tied = tied_layers(baseline, before)
    reader = _Reader(candidate)
    for name in (name for name in before if name not in tied):
        # A quantized layer of another library is not a linear layer of torch.
        layer = after.get(name) or Layer(name, candidate.get_submodule(name))
        treatment = reader.treatment(layer, before[name].weight)
        if not treatment and not is_readable(layer):
            return Treatments(reason=f"the form in which layer {name} is stored is not known")
        if treatment:
            layers[name] = treatment
        elif treatment is not None and not _is_restructured(name, structure):
            unexplained.append(name)
    explained = len(layers) + len(structure.shapes)
    reason = ""
    if len(unexplained) > explained:
        reason = (
            f"the weights of {len(unexplained)} layers, such as {unexplained[0]}, were changed, "
            "but they are neither on a grid, nor pruned, nor of a lower rank, as after training"
        )
    reason = reason or _change_outside_layers(candidate, baseline, bool(explained or unexplained))
    return Treatments(dtype, layers, structure.shapes, tuple(unexplained), reason)


def _change_outside_layers(
    candidate: PreTrainedModel, baseline: PreTrainedModel, has_changed_layers: bool
) -> str:
    """Return why weights outside of the linear layers leave no naive counterpart, or an empty
    string: the embedding was rounded, or they are all that was changed."""
    weights = dict(candidate.named_parameters())
    pairs = {
        name: (weights[name].detach().to(before.device), before.detach())
        for name, before in baseline.named_parameters()
        if name in weights and weights[name].shape == before.shape
    }
    if not has_changed_layers:
        changed = next((name for name, sides in pairs.items() if not torch.equal(*sides)), "")
        return changed and f"only weights outside of its linear layers differ, such as {changed}"
    embeddings = [m.get_input_embeddings().weight for m in (candidate, baseline)]
    if embeddings[0].shape != embeddings[1].shape or not embeddings[0].is_floating_point():
        return ""
    after, before = (weight.detach().float().to(baseline.device) for weight in embeddings)
    rows = (after != before).any(dim=-1).double().mean()
    if rows > 0.5 and (after - before).norm() <= ROUNDED_EMBEDDING * before.norm():
        return "its embedding was rounded, too"
    return ""


def _structure(candidate: PreTrainedModel, baseline: PreTrainedModel, dtype: str) -> Treatments:
    """Return the layers that are factored, have other shapes or are not in the baseline."""
    factored = {
        name: Treatment(rank=module.first.out_features, factored=True)
        for name, module in candidate.named_modules()
        if isinstance(module, LowRank)
    }
    before, after = all_layers(baseline), all_layers(candidate)
    parts = {f"{name}.{part}" for name in factored for part in ("first", "second")}
    modules = {name for name, _ in candidate.named_modules()}
    missing = [name for name in before if name not in after and name not in modules]
    if missing:
        return Treatments(reason=f"it lacks layers of its baseline, such as {missing[0]}")
    added = tuple(name for name in after if name not in before and name not in parts)
    shapes = {}
    for name in (name for name in before if name in after):
        if not is_readable(after[name]):
            continue
        shape, new = tuple(before[name].weight.shape), tuple(after[name].weight.shape)
        if any(now > then for now, then in zip(new, shape, strict=True)):
            return Treatments(reason=f"layer {name} is larger than that of the baseline")
        if new != shape:
            shapes[name] = new
    return Treatments(dtype, factored, shapes, added)


def _is_restructured(name: str, structure: Treatments) -> bool:
    """Return whether a layer has another shape, or is a factor."""
    return name in structure.shapes or name.rpartition(".")[0] in structure.layers


class _Reader:
    """Reads the layers of one candidate.

    Args:
        candidate: the loaded model.
    """

    def __init__(self, candidate: PreTrainedModel):
        self.candidate = candidate
        self._rank_trials = 0
        self._has_low_rank = False

    def treatment(self, layer: Layer, before: Tensor) -> Treatment | None:
        """Return what was done to a layer, empty if that is unknown; None if nothing was changed.

        Args:
            layer: of the candidate.
            before: the weight of the same layer of the baseline, in the candidate's dtype.
        """
        quantization = declared_quantization(self.candidate, layer)
        if not is_readable(layer):
            return Treatment(quantization=quantization or "")
        weight = layer.weight.to(before.device)
        if quantization is None:
            if torch.equal(weight, before):
                return None
            quantization = quantization_of_values(weight)
        elif not quantization and torch.equal(weight, before):
            return None
        zeros, pattern = _pruned(weight, before, quantization)
        rank = None if zeros or quantization else self._lower_rank(weight)
        return Treatment(zeros, pattern, rank, quantization=quantization)

    def _lower_rank(self, weight: Tensor) -> int | None:
        if self._rank_trials >= RANK_TRIALS and not self._has_low_rank:
            return None
        self._rank_trials += 1
        rank = int(torch.linalg.matrix_rank(weight.float()))
        if rank > LOW_RANK * min(weight.shape):
            return None
        self._has_low_rank = True
        return max(rank, 1)


def _pruned(
    weight: Tensor, before: Tensor, quantization: str
) -> tuple[int, tuple[int, int] | None]:
    """Return how many weights a layer lost by pruning and the N:M pattern; 0 and None if none."""
    zeros = int((weight == 0).sum())
    if quantization:
        step = Treatment(quantization=quantization).step
        usual = step.entry.implementation(before, step, None, False).dequantized() == 0
    else:
        usual = before == 0
    extra = zeros - int(usual.sum())
    if extra <= (ROUNDED_ZEROS if quantization else FEWEST_ZEROS) * weight.numel():
        return 0, None
    if not quantization and zeros <= CERTAIN_ZEROS * weight.numel():
        kept = weight != 0
        if int((weight == before)[kept].sum()) <= int(kept.sum()) / 2:
            return 0, None
    if pattern := _pattern(weight):
        n, m = pattern
        return weight.numel() * (m - n) // m, pattern
    # Rounding sets further weights to zero. Both together have to leave as many zeros.
    magnitudes = before.abs()
    threshold = magnitudes[~usual].float().kthvalue(extra).values
    return int((magnitudes.float() <= threshold).sum()), None


def _pattern(weight: Tensor) -> tuple[int, int] | None:
    """Return the N:M pattern that accounts for the zeros of a weight, or None."""
    share = float((weight == 0).double().mean())
    for m in PATTERN_SIZES:
        if weight.shape[1] % m:
            continue
        n = int((weight != 0).unflatten(1, (-1, m)).sum(dim=-1).max())
        if 0 < n < m and share - (m - n) / m <= ROUNDED_ZEROS:
            return n, m
    return None
