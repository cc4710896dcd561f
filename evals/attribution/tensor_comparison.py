"""The tensors of a candidate beside those of its baseline, without a forward pass.

Of each tensor ``W'`` and its counterpart ``W`` in the baseline: the relative error ``||W' - W|| /
||W||`` (Frobenius norms), the share of zeros, the largest absolute value, and the number of bits.
A tensor *stands out* if one of these numbers is far from those of the other tensors of its kind,
which have the same name except for the numbers of blocks and experts, by a robust z-score::

    z = |value - median of the others| / max(1.4826 * MAD of the others, floor)

(Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993). It is a hint and not a verdict.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

LARGEST_Z = 6.0
"""Robust z-score above which a tensor stands out."""
FEWEST_OTHERS = 4
"""Smallest number of other tensors of its kind that a tensor is compared with."""
_NORMAL = 1.4826
"""Standard deviation of a normal distribution relative to its MAD."""
GROUPS = (256, 128, 64, 32)
"""Sizes of groups of consecutive weights of a row that may share a scale, other than the row."""
MOST_BITS, SHARED_SCALE = 8, 1.5
"""Largest number of bits that is estimated; largest number of distinct values of a group that share
a scale, over that of its first half."""
_SAMPLED_ROWS, _STEP, _COLUMNS = 64, 1 << 22, 1024
"""Number of rows whose distinct values are counted; number of elements in float64, and of columns
of a packed weight, at a time."""


@dataclass(frozen=True)
class TensorComparison:
    """A tensor of a candidate, and its counterpart in the baseline.

    Attributes:
        name: of the parameter.
        error: relative error; NaN if the baseline's tensor is zero.
        zeros, baseline_zeros: share of zeros.
        largest, baseline_largest: largest absolute value.
        bits: number of bits of the values of a row or group; None if that cannot be estimated.
    """

    name: str
    error: float
    zeros: float
    baseline_zeros: float
    largest: float
    baseline_largest: float
    bits: int | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the comparison as a plain mapping."""
        return asdict(self)


def compare_tensors(
    baseline: nn.Module,
    candidate: nn.Module,
    first: str = "",
    seconds: float = math.inf,
) -> dict[str, TensorComparison]:
    """Compare each parameter of a baseline with that of the candidate, by name.

    Packed and factored linear layers are compared by their dequantized weights. Parameters of other
    shapes are left out.

    Args:
        baseline, candidate: the models.
        first: name of a module whose parameters are compared first.
        seconds: time limit, after which no further parameter is compared.
    """
    end = time.monotonic() + seconds
    comparisons: dict[str, TensorComparison] = {}
    for name, *pair in _pairs(baseline, candidate, first):
        comparisons[name] = compare_tensor(name, *pair)
        if time.monotonic() > end:
            break
    return comparisons


def _pairs(
    baseline: nn.Module, candidate: nn.Module, first: str
) -> Iterator[tuple[str, Tensor, Tensor]]:
    modules = dict(candidate.named_modules(remove_duplicate=False))
    parameters = list(baseline.named_parameters())
    parameters.sort(key=lambda parameter: parameter[0].rpartition(".")[0] != first)
    for name, before in parameters:
        owner, _, key = name.rpartition(".")
        module = modules.get(owner)
        if module is None or before.is_meta or not before.is_floating_point():
            continue
        after = _dense(module, key, baseline.get_submodule(owner))
        if after is not None and not after.is_meta and after.shape == before.shape:
            yield name, before.detach(), after


def _dense(module: nn.Module, key: str, original: nn.Module) -> Tensor | None:
    """Return the values of a parameter; of a packed or factored weight those that the layer
    multiplies by."""
    value = module._parameters.get(key)
    is_plain = type(value) in (Tensor, nn.Parameter)
    if is_plain and value.dtype.itemsize > 1 and value.is_floating_point():
        return value.detach()
    if key != "weight" or not isinstance(original, nn.Linear):
        return None
    try:
        return _multiplied_by(module, original)
    except Exception:  # a library's layer that takes no such inputs
        return None


def _multiplied_by(module: nn.Module, original: nn.Linear) -> Tensor:
    """Return the weight ``(out, in)`` of a linear layer, from its outputs for unit vectors."""
    like = original.weight
    zero = torch.zeros(1, original.in_features, dtype=like.dtype, device=like.device)
    offset, columns = module(zero), []
    for start in range(0, original.in_features, _COLUMNS):
        count = min(_COLUMNS, original.in_features - start)
        units = zero.repeat(count, 1)
        units[torch.arange(count), torch.arange(start, start + count)] = 1
        columns.append((module(units) - offset).mT)
    return torch.cat(columns, 1)


def compare_tensor(name: str, before: Tensor, after: Tensor) -> TensorComparison:
    """Compare two tensors of equal shape; sums are in float64."""
    difference = norm = 0.0
    after = after.to(before.device)
    flat = before.reshape(-1), after.reshape(-1)
    for start in range(0, before.numel(), _STEP):
        one, two = (side[start : start + _STEP].double() for side in flat)
        difference += float((two - one).square().sum())
        norm += float(one.square().sum())
    return TensorComparison(
        name,
        math.sqrt(difference / norm) if norm else math.nan,
        *(1 - int(side.count_nonzero()) / max(side.numel(), 1) for side in (after, before)),
        *(_largest(side) for side in (after, before)),
        bits_of(after, before),
    )


def _largest(tensor: Tensor) -> float:
    """Return the largest absolute value, without a copy of the tensor."""
    return float(max(-tensor.min(), tensor.max())) if tensor.numel() else 0.0


def bits_of(weight: Tensor, baseline: Tensor) -> int | None:
    """Estimate the bits of a weight from the number of distinct values in its rows or groups.

    The values are those of a grid if the nonzero ones are on average repeated at least once, and if
    the baseline has at least twice as many distinct ones. They share a scale if the halves of a row
    or group have nearly the same values; with two scales, they would have half as many each.

    Args:
        weight, baseline: ``(..., columns)``.

    Returns:
        The smallest number of bits that could hold the values of each row, or of each group of the
        largest of :data:`GROUPS` that share a scale; None if no values do, or the bits would be
        more than :data:`MOST_BITS`.
    """
    if weight.ndim < 2 or torch.equal(weight, baseline) or not weight.any():
        return None
    rows = [side.reshape(-1, side.shape[-1]) for side in (weight, baseline)]
    index = np.unique(np.linspace(0, len(rows[0]) - 1, _SAMPLED_ROWS).round().astype(int))
    after, before = (side[index].double().cpu().numpy() for side in rows)
    columns = after.shape[1]
    for size in (columns, *(size for size in GROUPS if size < columns and columns % size == 0)):
        groups = after.reshape(-1, size)
        levels, counts = _distinct(groups), np.count_nonzero(groups, axis=1)
        halves = _distinct(groups[:, : size // 2])
        if (levels > counts / 2).any() or levels.sum() > SHARED_SCALE * halves.sum():
            continue
        if levels.max() > _distinct(before.reshape(-1, size)).max() / 2:
            continue
        bits = math.ceil(math.log2(levels.max() + 1))
        return bits if bits <= MOST_BITS else None
    return None


def _distinct(groups: np.ndarray) -> np.ndarray:
    """Return the number of distinct nonzero values of each row."""
    ordered = np.sort(groups, axis=1)
    changes = np.diff(ordered, axis=1) != 0
    return changes.sum(1) + 1 - (groups == 0).any(1)


@dataclass(frozen=True)
class _Property:
    """A number in which tensors of a kind are compared.

    Attributes:
        value: returns the number.
        floor: smallest standard deviation that is assumed, given the medians of the others.
        direction: 1 if only larger numbers stand out, -1 if only smaller ones, 0 if both.
        text: describes the number and the median of the others.
    """

    value: Callable[[TensorComparison], float | None]
    floor: Callable[[np.ndarray], np.ndarray | float]
    direction: int
    text: Callable[[float, float], str]


def _growth(tensor: TensorComparison) -> float | None:
    """Return the logarithm of the largest value relative to the baseline's, to the base of 2."""
    if not (tensor.largest > 0 and tensor.baseline_largest > 0):
        return None
    return math.log2(tensor.largest / tensor.baseline_largest)


PROPERTIES = (
    _Property(lambda t: t.zeros, lambda _: 0.02, 1,
              lambda v, m: f"{v:.0%} zeros (others {m:.0%})"),
    _Property(lambda t: t.error, lambda medians: np.maximum(medians / 4, 1e-3), 1,
              lambda v, m: f"error {v:.2g} (others {m:.2g})"),
    _Property(_growth, lambda _: 0.1, 0,
              lambda v, m: f"largest value {2**v:.2g} times the baseline's (others {2**m:.2g})"),
    _Property(lambda t: t.bits, lambda _: 0.25, -1,
              lambda v, m: f"{v:g} bits (others {m:g})"),
)  # fmt: skip


def remarkable(comparisons: Mapping[str, TensorComparison]) -> list[str]:
    """Return a line for each tensor that stands out among those of its kind, the one with the
    largest robust z-score first."""
    kinds: dict[str, list[TensorComparison]] = {}
    for name, tensor in comparisons.items():
        kinds.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(tensor)
    lines = [line for tensors in kinds.values() for line in _lines(tensors)]
    return [text for _, text in sorted(lines, key=lambda line: -line[0])]


def _lines(tensors: Sequence[TensorComparison]) -> Iterator[tuple[float, str]]:
    """Yield the largest z-score and the line of each tensor of a kind that stands out."""
    found: dict[int, list[tuple[float, str]]] = {}
    for item in PROPERTIES:
        # None becomes NaN.
        values = np.array([item.value(tensor) for tensor in tensors], dtype=np.float64)
        known = np.flatnonzero(np.isfinite(values))
        if len(known) <= FEWEST_OTHERS:
            continue
        medians = others_median(values[known])
        scores = robust_z_scores(values[known], item.floor(medians))
        for i in np.flatnonzero((np.abs(scores) > LARGEST_Z) & (scores * item.direction >= 0)):
            text = item.text(float(values[known[i]]), float(medians[i]))
            found.setdefault(int(known[i]), []).append((abs(float(scores[i])), text))
    for index in sorted(found):
        name = tensors[index].name.removesuffix(".weight")
        yield max(found[index])[0], f"{name}: {', '.join(text for _, text in found[index])}"


def robust_z_scores(values: np.ndarray, floor: np.ndarray | float) -> np.ndarray:
    """Return the signed robust z-score of each value among the others.

    Args:
        values: ``(n,)``, finite, with n of at least 2.
        floor: smallest standard deviation that is assumed, for all values or for each.

    Returns:
        ``(n,)``, in O(n log n) time: the medians of the others have at most three different values,
        so three times sorting the distances from them suffices.
    """
    medians = others_median(values)
    mads = np.empty_like(medians)
    for median in np.unique(medians):
        is_own = medians == median
        mads[is_own] = others_median(np.abs(values - median))[is_own]
    return (values - medians) / np.maximum(_NORMAL * mads, floor)


def others_median(values: np.ndarray) -> np.ndarray:
    """Return, for each of ``(n,)`` values, the median of the other n - 1, in O(n log n) time."""
    count = len(values)
    order = np.argsort(values, kind="stable")
    ordered, rank = values[order], np.empty(count, dtype=int)
    rank[order] = np.arange(count)
    middle = [ordered[k + (k >= rank)] for k in ((count - 2) // 2, (count - 1) // 2)]
    return np.mean(middle, axis=0)
