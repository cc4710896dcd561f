"""Likelihood of the next token, and distance from a baseline's predictions, from rows of logits.

For logits ``a`` of the baseline and ``b`` of the model, with p = softmax(a) and q = softmax(b)::

    nll           -log q_target
    JS(p, q)      see evals.scoring.divergence
    KL(p || q)    likewise, and KL(q || p)
    TV(p, q)      sum_v |p_v - q_v| / 2
    agree         argmax a = argmax b

All of them are computed together, a few rows at a time, so that no copy of the logits in another
dtype or of the probabilities is ever held. On CUDA, a kernel of Triton does it if Triton is
installed; elsewhere numpy does, whose float32 ``exp`` and ``log1p`` are vectorized.

The numpy path is in float32 with sums in float64, and agrees with float64 to 1e-6. Rounding errors
grow with the difference of log-probabilities, so rows that diverge by more than
:data:`FLOAT32_NATS`, or have values that are not finite, are computed again in float64.
"""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import torch

from compression_gates.evals.scoring.divergence import divergences

LIKELIHOOD = ("nll",)
DISTANCES = ("js", "kl_forward", "kl_backward", "tv", "agree")
"""Columns of the results, in order; ``kl_forward`` is KL(baseline || model)."""
FLOAT32_NATS = 1.0
"""Largest Kullback-Leibler divergence that is computed in float32."""
_CPU_STEP, _CUDA_STEP = 1 << 18, 1 << 22
"""Number of entries of the rows that are computed at a time. On the CPU, they and their buffers
stay in a core's cache."""
_LANE = 128
"""Number of products that are summed in float32, before their sums are added in float64."""


def score_logits(
    logits: torch.Tensor, targets: torch.Tensor, baseline: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the likelihood of each target token, and the distances from a baseline's predictions.

    If the vocabularies differ in size, the distances are over the entries that both have, with
    renormalized probabilities; ``nll`` and ``agree`` are over all entries of a model.

    Args:
        logits: ``(rows, vocabulary)`` in any floating dtype.
        targets: ``(rows,)``, token ids.
        baseline: logits ``(rows, vocabulary)`` of the baseline.

    Returns:
        ``(rows, columns)`` in float64 on the device of ``logits``. The columns are
        :data:`LIKELIHOOD`, and with a baseline also :data:`DISTANCES`.
    """
    baseline = None if baseline is None else baseline.to(logits.device)
    targets = targets.to(logits.device)
    if logits.is_cuda and find_spec("triton") is not None:
        from compression_gates.evals.scoring.comparison_kernel import scored_by_kernel

        return scored_by_kernel(baseline, logits, targets)
    columns = 1 if baseline is None else 1 + len(DISTANCES)
    result = torch.empty(len(logits), columns, dtype=torch.float64, device=logits.device)
    width = max(side.shape[1] for side in (baseline, logits) if side is not None)
    step = max((_CUDA_STEP if logits.is_cuda else _CPU_STEP) // width, 1)
    threads = 1 if logits.is_cuda else torch.get_num_threads()
    share = max(-(-len(logits) // threads), step)

    def score(first: int) -> None:
        last = min(first + share, len(logits))
        buffers = np.empty((4, step, _padded(width)), np.float32)
        with torch.inference_mode():  # a new thread is outside of the caller's
            for start in range(first, last, step):
                rows = slice(start, min(start + step, last))
                expected = None if baseline is None else baseline[rows]
                given = expected, logits[rows], targets[rows]
                if logits.is_cuda:
                    result[rows] = _reference(*given)
                else:
                    result[rows] = torch.from_numpy(_on_cpu(*given, buffers))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(score, range(0, len(logits), share)))
    return result


def _reference(
    baseline: torch.Tensor | None, logits: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Compute a few rows in float64, with the formulas of :mod:`evals.scoring.divergence`."""
    nll = -logits.double().log_softmax(-1).gather(1, targets[:, None])
    if baseline is None:
        return nll
    shared = min(baseline.shape[1], logits.shape[1])
    log_p, log_q = (side[:, :shared].double().log_softmax(-1) for side in (baseline, logits))
    js, forward, backward = divergences(log_p, log_q)
    tv = (log_p.exp() - log_q.exp()).abs().sum(-1) / 2
    agree = baseline.argmax(-1) == logits.argmax(-1)
    return torch.cat((nll, torch.stack((js, forward, backward, tv, agree), 1)), 1)


def _on_cpu(
    baseline: torch.Tensor | None, logits: torch.Tensor, targets: torch.Tensor, buffers: np.ndarray
) -> np.ndarray:
    """Compute a few rows in float32, and in float64 those that float32 is not sufficient for.

    Args:
        baseline, logits, targets: as for :func:`score_logits`.
        buffers: ``(4, rows, columns)`` in float32, which are overwritten.
    """
    sides = [side for side in (baseline, logits) if side is not None]
    if any(side.dtype == torch.float64 for side in sides):
        again = np.ones(len(logits), bool)
        columns = np.empty((len(logits), 1 if baseline is None else 1 + len(DISTANCES)))
    else:
        columns = _vectorized([side.float().numpy() for side in sides], targets, buffers)
        again = ~np.isfinite(columns).all(1) | (columns[:, 2:4] > FLOAT32_NATS).any(1)
    if again.any():
        rows = torch.from_numpy(again)
        wide = [side[rows].double().numpy() for side in sides]
        more = np.empty((4, len(wide[0]), buffers.shape[-1]))
        columns[again] = _vectorized(wide, targets[rows], more)
        again = ~np.isfinite(columns).all(1)
    if again.any():  # with probabilities of zero or NaN
        rows = torch.from_numpy(again)
        expected = None if baseline is None else baseline[rows]
        columns[again] = _reference(expected, logits[rows], targets[rows]).numpy()
    return columns


@np.errstate(all="ignore")
def _vectorized(sides: list[np.ndarray], targets: torch.Tensor, buffers: np.ndarray) -> np.ndarray:
    """Compute rows in the dtype of the arguments; zero probabilities give NaN.

    Args:
        sides: the logits of the model, preceded by those of its baseline if there is one.
        targets: ``(rows,)``.
        buffers: ``(4, rows, columns)``, which are overwritten.
    """
    logits, index = sides[-1], np.arange(len(targets))
    tops = [side.argmax(1) for side in sides]
    *_, total = _exponentials(logits, buffers[2:])
    top = logits[index, tops[-1]].astype(np.float64)
    nll = np.log(total) + top - logits[index, targets.numpy()]
    if len(sides) == 1:
        return nll[:, None]
    shared = min(side.shape[1] for side in sides)
    one = _exponentials(sides[0][:, :shared], buffers[:2])
    if shared < logits.shape[1]:
        two = _exponentials(logits[:, :shared], buffers[2:])
    else:
        two = *_, total
    return np.stack((nll, *_distances(*one, *two), tops[0] == tops[1]), 1)


def _padded(size: int) -> int:
    return -(-size // _LANE) * _LANE


def _exponentials(
    rows: np.ndarray, buffers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x = logits minus the largest of a row, exp(x), and the sum of exp(x) ``(rows,)``.

    Both are written into ``buffers``, and padded with zeros to a multiple of :data:`_LANE`.
    """
    size = rows.shape[1]
    x, exp = buffers[:, : len(rows), : _padded(size)]
    np.subtract(rows, rows.max(1, keepdims=True), out=x[:, :size])
    x[:, size:] = 0
    np.exp(x, out=exp)
    exp[:, size:] = 0
    return x, exp, _dot(exp)


def _dot(left: np.ndarray, right: np.ndarray | None = None) -> np.ndarray:
    """Return the sum of products of each row, or of its values, in float64."""
    lanes = *left.shape[:-1], -1, _LANE
    ones = np.ones(_LANE, left.dtype)
    other = ones if right is None else right.reshape(lanes)
    return np.vecdot(left.reshape(lanes), other).sum(-1, dtype=np.float64)


def _distances(
    x: np.ndarray, p: np.ndarray, p_sum: np.ndarray, y: np.ndarray, q: np.ndarray, q_sum: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return JS, KL(p || q), KL(q || p) and TV, given the results of :func:`_exponentials` for the
    baseline and the model, which are overwritten.

    With r = q_v / p_v, a term of JS is (q_v log r - (p_v + q_v) log((1 + r) / 2)) / 2. All four
    are exactly zero for equal rows.
    """
    shift = np.log(q_sum) - np.log(p_sum)
    log_ratio = np.subtract(y, x, out=y)
    forward = shift - _dot(p, log_ratio) / p_sum
    backward = _dot(q, log_ratio) / q_sum - shift
    log_ratio -= shift[:, None].astype(x.dtype)
    log_mean = np.log1p(np.exp(log_ratio, out=x), out=x)
    log_mean -= np.log1p(np.ones_like(x, shape=1))
    q *= (p_sum / q_sum)[:, None].astype(x.dtype)
    common = _dot(np.minimum(p, q, out=y)) / p_sum
    p += q
    js = (backward - _dot(p, log_mean) / p_sum) / 2
    return tuple(np.maximum(value, 0.0) for value in (js, forward, backward, 1 - common))
