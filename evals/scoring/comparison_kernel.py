"""The computation of :mod:`evals.scoring.comparison` as a Triton kernel, for CUDA.

One program computes one row in float64 in two passes over the vocabulary: the first finds the
largest logits and the sums of exponentials, the second the distances. The logits are read in their
own dtype, and nothing else of the size of the vocabulary is held.
"""

import torch
import triton
import triton.language as tl

_BLOCK = 4096
"""Largest number of entries that a program reads at a time."""
_COLUMNS = 6


@triton.jit
def _sums(row, size, shared, block: tl.constexpr):
    """Return the position of the largest entry of a row, the logarithm of the sum of exponentials
    over all ``size`` entries, and that over the first ``shared`` entries."""
    largest = tl.full((), float("-inf"), tl.float64)
    top = tl.full((), 0, tl.int32)
    total = tl.full((), 0.0, tl.float64)
    common = tl.full((), 0.0, tl.float64)
    for start in range(0, size, block):
        columns = start + tl.arange(0, block)
        values = tl.load(row + columns, columns < size, float("-inf")).to(tl.float64)
        highest = tl.max(values, 0)
        first = tl.min(tl.where(values == highest, columns, size), 0)
        top = tl.where(highest > largest, first, top)
        raised = tl.maximum(largest, highest)
        # Before the first finite entry, the sums are zero and stay so.
        origin = tl.where(raised == float("-inf"), 0.0, raised)
        terms = tl.exp(values - origin)
        scale = tl.exp(largest - origin)
        total = total * scale + tl.sum(terms, 0)
        common = common * scale + tl.sum(tl.where(columns < shared, terms, 0.0), 0)
        largest = raised
    return top, tl.log(total) + largest, tl.log(common) + largest


@triton.jit
def _likelihoods(logits, targets, result, size, block: tl.constexpr):
    index = tl.program_id(0).to(tl.int64)
    row = logits + index * size
    _top, total, _common = _sums(row, size, size, block)
    target = tl.load(row + tl.load(targets + index)).to(tl.float64)
    tl.store(result + index, total - target)


@triton.jit
def _scores(baseline, logits, targets, result, size_a, size_b, shared, block: tl.constexpr):
    index = tl.program_id(0).to(tl.int64)
    row_a, row_b = baseline + index * size_a, logits + index * size_b
    top_a, _total_a, common_a = _sums(row_a, size_a, shared, block)
    top_b, total_b, common_b = _sums(row_b, size_b, shared, block)
    js = tl.full((), 0.0, tl.float64)
    forward = tl.full((), 0.0, tl.float64)
    backward = tl.full((), 0.0, tl.float64)
    variation = tl.full((), 0.0, tl.float64)
    for start in range(0, shared, block):
        columns = start + tl.arange(0, block)
        inside = columns < shared
        log_p = tl.load(row_a + columns, inside, float("-inf")).to(tl.float64) - common_a
        log_q = tl.load(row_b + columns, inside, float("-inf")).to(tl.float64) - common_b
        p, q = tl.exp(log_p), tl.exp(log_q)
        # Entries without probability on both sides, which include the padding, add nothing.
        ratio = tl.where((p == 0.0) & (q == 0.0), 0.0, log_p - log_q)
        bounded = tl.minimum(tl.maximum(ratio, -700.0), 700.0)
        bounded = tl.where(ratio != ratio, ratio, bounded)  # keeps NaN
        p_over_mean = -tl.log(0.5 + 0.5 * tl.exp(-bounded))
        q_over_mean = -tl.log(0.5 + 0.5 * tl.exp(bounded))
        js += tl.sum(tl.where(inside, p * p_over_mean + q * q_over_mean, 0.0), 0)
        forward += tl.sum(tl.where(p == 0.0, 0.0, p * ratio), 0)
        backward += tl.sum(tl.where(q == 0.0, 0.0, -q * ratio), 0)
        variation += tl.sum(tl.abs(p - q), 0)
    target = tl.load(row_b + tl.load(targets + index)).to(tl.float64)
    out = result + index * 6
    tl.store(out, total_b - target)
    tl.store(out + 1, tl.where(js < 0.0, 0.0, js / 2))
    tl.store(out + 2, tl.where(forward < 0.0, 0.0, forward))
    tl.store(out + 3, tl.where(backward < 0.0, 0.0, backward))
    tl.store(out + 4, variation / 2)
    tl.store(out + 5, tl.where(top_a == top_b, 1.0, 0.0).to(tl.float64))


def scored_by_kernel(
    baseline: torch.Tensor | None, logits: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return what :func:`evals.scoring.comparison.score_logits` returns for the same arguments."""
    count, size = logits.shape
    logits = logits.contiguous()
    widest = size if baseline is None else max(size, baseline.shape[1])
    block = min(triton.next_power_of_2(widest), _BLOCK)
    columns = 1 if baseline is None else _COLUMNS
    result = torch.empty(count, columns, dtype=torch.float64, device=logits.device)
    if not count:
        return result
    with torch.cuda.device_of(logits):
        if baseline is None:
            _likelihoods[(count,)](logits, targets, result, size, block)
        else:
            baseline = baseline.contiguous()
            shared = min(size, baseline.shape[1])
            sizes = baseline.shape[1], size, shared
            _scores[(count,)](baseline, logits, targets, result, *sizes, block)
    return result
