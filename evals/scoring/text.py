"""One forward pass over text: likelihoods, and divergence from the baseline's predictions.

Text is cut into windows of ``context`` tokens, each ``stride`` after the last; a token is
predicted in the first window that holds it after its own first position. With the stride equal
to the context the windows are disjoint, which is how the papers report perplexity.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from evals.data import DataSet
from evals.errors import EvalError
from evals.metrics.divergence import divergences
from evals.scoring.loading import Loaded
from evals.scoring.protocols import TextProtocol

CHUNK = 1 << 22
"""Entries of a log-probability table that are compared at a time in float64."""
SHOWN_TOKENS = 64
"""Tokens of a window that are kept as text, to show where a candidate got worse."""


@dataclass(frozen=True)
class _Window:
    ids: list[int]
    skip: int  # targets at the front that an earlier window has predicted
    item: int

    @property
    def predicted(self) -> int:
        return len(self.ids) - 1 - self.skip


def windows(data: DataSet, encode, context: int, stride: int) -> list[_Window]:
    """All windows that predict something, in the order of the text."""
    found = []
    for index, item in enumerate(data.items):
        ids = encode(item.text)
        done = 1  # the first token has nothing before it
        for start in range(0, len(ids), stride):
            stop = min(start + context, len(ids))
            if stop > max(done, start + 1):
                skip = max(done - start - 1, 0)
                found.append(_Window(ids[start:stop], skip, index))
                done = stop
    if not found:
        raise EvalError(f"data set {data.name}: no text of two tokens or more")
    return found


def context_of(loaded: Loaded, protocol: TextProtocol) -> int:
    """Tokens of a window for this model.

    Raises:
        EvalError: more than the model can take.
    """
    limit = loaded.max_tokens
    context = protocol.context or min(limit, 2048)
    if context > limit:
        raise EvalError(f"context {context}: {loaded.checkpoint.label} takes {limit} at most")
    return context


@torch.inference_mode()
def score_text(
    loaded: Loaded,
    data: DataSet,
    protocol: TextProtocol,
    keep: Path | None = None,
    reference: Path | None = None,
) -> dict[str, np.ndarray]:
    """Scores every predicted token of ``data``.

    Args:
        loaded: a causal model.
        data: texts.
        protocol: windows and batches.
        keep: where to write the log-probabilities ``(tokens, vocabulary)`` in float32, as the
            baseline's reference for candidates.
        reference: such a file, to diverge from.

    Returns:
        ``tokens``, ``nll``, ``window`` and ``cluster`` ``(tokens,)`` in the order of the text;
        ``window_text`` ``(windows,)``; ``units`` (words, bytes); ``windowing`` (context, stride);
        with a reference also ``js``, ``kl_forward`` (from the baseline), ``kl_backward`` and
        ``agree`` (top-1) ``(tokens,)``.

    Raises:
        EvalError: no text, or a vocabulary or tokenization other than the reference's.
    """
    tokenizer = loaded.tokenizer
    context = context_of(loaded, protocol)
    parts = windows(
        data, lambda text: tokenizer(text, verbose=False).input_ids, context,
        protocol.stride or context,
    )  # fmt: skip
    offsets = np.cumsum([0, *(part.predicted for part in parts)])
    total, vocabulary = int(offsets[-1]), loaded.model.get_output_embeddings().out_features
    result = {
        "tokens": np.concatenate([part.ids[1 + part.skip :] for part in parts]),
        "window": np.repeat(np.arange(len(parts)), np.diff(offsets)),
        "cluster": _clusters(data, parts, offsets),
        "window_text": np.array([tokenizer.decode(p.ids[:SHOWN_TOKENS]) for p in parts]),
        "units": np.array([_count(data, str.split), _count(data, str.encode)]),
        "windowing": np.array([context, protocol.stride or context]),
        "nll": np.empty(total, np.float32),
    }
    expected = _reference(reference, (total, vocabulary), loaded)
    if expected is not None:
        for name in ("js", "kl_forward", "kl_backward"):
            result[name] = np.empty(total, np.float64)
        result["agree"] = np.empty(total, bool)
    kept = None
    if keep is not None:
        _check_room(keep, total * vocabulary * 4)
        kept = np.lib.format.open_memmap(keep, "w+", np.float32, (total, vocabulary))
    for index, log_p in _forward(loaded, parts, protocol.batch_tokens, f"{data.name}"):
        rows = slice(offsets[index], offsets[index + 1])
        targets = torch.as_tensor(result["tokens"][rows], device=log_p.device)
        result["nll"][rows] = -log_p.gather(1, targets[:, None])[:, 0].cpu().numpy()
        if kept is not None:
            kept[rows] = log_p.cpu().numpy()
        if expected is not None:
            _compare(expected[rows], log_p, rows, result)
    if kept is not None:
        kept.flush()
    return result


def _clusters(data: DataSet, parts: list[_Window], offsets: np.ndarray) -> np.ndarray:
    """The document of every predicted token; of a single document, the window."""
    documents = [part.item for part in parts] if len(data.items) > 1 else range(len(parts))
    return np.repeat(np.array(documents), np.diff(offsets))


def _count(data: DataSet, split) -> int:
    return sum(len(split(item.text)) for item in data.items)


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise EvalError(
            f"the baseline's predictions take {needed:,} bytes, {path.parent} has {free:,} free; "
            "give less text or another --store"
        )


def _reference(path: Path | None, shape: tuple[int, int], loaded: Loaded) -> np.ndarray | None:
    if path is None:
        return None
    expected = np.load(path, mmap_mode="r")
    if expected.shape != shape:
        raise EvalError(
            f"{loaded.checkpoint.label} predicts {shape[0]} tokens over {shape[1]} entries, its "
            f"baseline {expected.shape[0]} over {expected.shape[1]}: "
            "tokenizer or vocabulary differ, so there is nothing to compare"
        )
    return expected


def _forward(
    loaded: Loaded, parts: list[_Window], batch_tokens: int, name: str
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields each window's index and log-probabilities ``(predicted, vocabulary)``, float32.

    Windows of like length share a batch, padded on the right where causality hides it.
    """
    order = sorted(range(len(parts)), key=lambda index: -len(parts[index].ids))
    label = f"{loaded.checkpoint.label}: {name}"
    with tqdm(total=len(parts), desc=label, unit="window", leave=False, disable=None) as bar:
        while order:
            length = len(parts[order[0]].ids)
            size = max(batch_tokens // length, 1)
            batch, order = order[:size], order[size:]
            ids = torch.zeros(len(batch), length, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, index in enumerate(batch):
                ids[row, : len(parts[index].ids)] = torch.tensor(parts[index].ids)
                mask[row, : len(parts[index].ids)] = 1
            output = loaded.model(
                input_ids=ids.to(loaded.device),
                attention_mask=mask.to(loaded.device),
                use_cache=False,
            )
            for row, index in enumerate(batch):
                part = parts[index]
                logits = output.logits[row, part.skip : len(part.ids) - 1]
                yield index, logits.float().log_softmax(-1)
            bar.update(len(batch))


def _compare(
    expected: np.ndarray, log_p: torch.Tensor, rows: slice, result: dict[str, np.ndarray]
) -> None:
    step = max(CHUNK // log_p.shape[1], 1)
    for start in range(0, len(log_p), step):
        mine = log_p[start : start + step]
        theirs = torch.from_numpy(np.array(expected[start : start + step])).to(mine.device)
        here = slice(rows.start + start, rows.start + start + len(mine))
        js, forward, backward = divergences(theirs, mine)
        result["js"][here] = js.cpu().numpy()
        result["kl_forward"][here] = forward.cpu().numpy()
        result["kl_backward"][here] = backward.cpu().numpy()
        result["agree"][here] = (theirs.argmax(-1) == mine.argmax(-1)).cpu().numpy()
