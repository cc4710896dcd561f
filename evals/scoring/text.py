"""One forward pass over text: likelihoods, and divergence from the baseline's predictions.

Text is cut into windows of ``context`` tokens, each ``stride`` after the last; a token is
predicted in the first window that holds it after its own first position. With the stride equal
to the context the windows are disjoint, which is how the papers report perplexity. Of a prompt
and its response the response alone is predicted, by an encoder-decoder from the encoded prompt.
"""

import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compression_gates.evals.checkpoints.checkpoint import SEQ2SEQ
from compression_gates.evals.data.items import DROP, DataSet, Prompt
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.batches import in_batches
from compression_gates.evals.scoring.divergence import divergences
from compression_gates.evals.scoring.prediction_table import PredictionTable, TableWriter, blocks
from compression_gates.evals.scoring.prompts import encode_prompts
from compression_gates.evals.scoring.protocols import WINDOW, TextProtocol

SHOWN_TOKENS = 64
"""Tokens of a window that are kept as text, to show where a candidate got worse."""


@dataclass(frozen=True)
class _Window:
    ids: list[int]
    skip: int  # tokens at the front that are not to predict: given, or predicted before
    item: int
    source: list[int] | None = None  # what an encoder reads
    end: int = 0  # tokens of a longer document up to here

    @property
    def predicted(self) -> int:
        return len(self.ids) - 1 - self.skip


def windows(
    data: DataSet, encode: Callable[[str], list[int]], context: int, stride: int, drop: bool = False
) -> list[_Window]:
    """All windows of texts that predict something, in the order of the text.

    ``drop`` leaves out a last one that is shorter than the context.
    """
    found = []
    for index, item in enumerate(data.items):
        ids = encode(item.text)
        done = 1  # the first token has nothing before it
        for start in range(0, len(ids), stride):
            stop = min(start + context, len(ids))
            if drop and stop - start < context:
                break
            if stop > max(done, start + 1):
                skip = max(done - start - 1, 0)
                found.append(_Window(ids[start:stop], skip, index, end=stop))
                done = stop
    if not found:
        least = f"{context} tokens" if drop else "two tokens or more"
        raise EvalError(f"data set {data.name}: no text of {least}")
    return found


def responses(loaded: Loaded, data: DataSet, context: int, chat: bool) -> list[_Window]:
    """A window for each prompt and its expected response; an encoder reads what it takes of one.

    Raises:
        EvalError: a prompt and its response that are longer than the context.
    """
    tokenizer, decoder = loaded.tokenizer, loaded.checkpoint.kind == SEQ2SEQ
    prompts = encode_prompts(loaded, data, chat)
    between = "" if decoder or chat else " "
    expected = [f"{between}{item.expected}" for item in data.items]
    targets = tokenizer(expected, add_special_tokens=decoder, verbose=False).input_ids
    found = []
    for index, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        length = len(target) + (0 if decoder else len(prompt))
        if length > context:
            raise EvalError(
                f"data set {data.name}: prompt {index + 1} and its response are longer than "
                f"{context} tokens"
            )
        if not target:
            continue
        if decoder:
            found.append(_Window([loaded.decoder_start_token_id, *target], 0, index, prompt))
        else:
            found.append(_Window([*prompt, *target], len(prompt) - 1, index))
    if not found:
        raise EvalError(f"data set {data.name}: no response to predict")
    return found


def context_of(loaded: Loaded, protocol: TextProtocol) -> int:
    """Tokens of a window for this model: as many as are asked for, or as it takes."""
    return min(protocol.context or WINDOW, loaded.max_tokens)


@torch.inference_mode()
def score_text(
    loaded: Loaded,
    data: DataSet,
    protocol: TextProtocol,
    keep: Path | None = None,
    reference: Path | Loaded | None = None,
    most: float = math.inf,
) -> dict[str, np.ndarray]:
    """Scores every predicted token of ``data``.

    Args:
        loaded: a model that predicts tokens.
        data: texts.
        protocol: windows and batches.
        keep: where to write the log-probabilities ``(tokens, vocabulary)`` in float32, as the
            baseline's reference for candidates.
        reference: such a file to diverge from, or the baseline itself, which is run side by side.
        most: bytes of a file that is worth keeping; nothing is written beyond.

    Returns:
        ``tokens``, ``nll``, ``window`` and ``cluster`` ``(tokens,)`` in the order of the text;
        ``window_item`` and ``window_text`` ``(windows,)``; ``units`` (words, bytes);
        ``windowing`` (context, stride); ``longest``, tokens of the longest document;
        ``vocabulary``, entries that a prediction is over;
        with a reference also ``js``, ``kl_forward`` (from the baseline), ``kl_backward`` and
        ``agree`` (top-1) ``(tokens,)``.

    Divergences are over the entries that both vocabularies have, renormalized: rows that only one
    side has stand for no token. Likelihoods and first choices are over all of a model's entries,
    so that a model that predicts such a row is worse for it, as it is in plain use.

    Raises:
        EvalError: no text, another tokenization than the reference's, or a disk that is full.
        DamagedError: the file of the reference is not what was written.
    """
    context = context_of(loaded, protocol)
    stride = min(protocol.stride or context, context)
    parts = _cut(loaded, data, protocol, context, stride)
    offsets = np.cumsum([0, *(part.predicted for part in parts)])
    vocabulary = loaded.model.get_output_embeddings().out_features
    result = {
        **_layout(loaded, data, parts, offsets),
        "windowing": np.array([context, stride]),
        "vocabulary": np.array(vocabulary),
        **_unfilled(int(offsets[-1]), compared=reference is not None),
    }
    label = f"{loaded.checkpoint.label}: {data.name}"
    with (
        _table(reference, int(offsets[-1]), loaded) as expected,
        _writer(keep, offsets, vocabulary, most) as kept,
    ):

        def run(batch: list[int]) -> None:
            inputs = _inputs([parts[index] for index in batch], loaded.device)
            logits = loaded.model(**inputs).logits
            beside = reference.model(**inputs).logits if isinstance(reference, Loaded) else None
            for row, index in enumerate(batch):
                part, rows = parts[index], slice(int(offsets[index]), int(offsets[index + 1]))
                predicting = row, slice(part.skip, len(part.ids) - 1)
                log_p = logits[predicting].float().log_softmax(-1)
                result["nll"][rows] = _nll(log_p, result["tokens"][rows])
                if kept is not None:
                    kept.put(rows.start, log_p.cpu().numpy())
                if expected is not None:
                    _compare(expected, log_p, rows, result)
                elif beside is not None:
                    _compare(beside[predicting].float().log_softmax(-1), log_p, rows, result)

        in_batches([len(part.ids) for part in parts], protocol.batch_tokens, run, label, "window")
    return result


def _cut(
    loaded: Loaded, data: DataSet, protocol: TextProtocol, context: int, stride: int
) -> list[_Window]:
    """The windows of texts, or of prompts and their responses."""
    if isinstance(data.items[0], Prompt):
        return responses(loaded, data, context, protocol.chat)

    def encode(text: str) -> list[int]:
        return loaded.tokenizer(text, verbose=False).input_ids

    return windows(data, encode, context, stride, protocol.tail == DROP)


def _layout(
    loaded: Loaded, data: DataSet, parts: list[_Window], offsets: np.ndarray
) -> dict[str, np.ndarray]:
    """What is known of the predicted tokens before the model runs."""
    shown = [loaded.tokenizer.decode(part.ids[:SHOWN_TOKENS]) for part in parts]
    return {
        "tokens": np.concatenate([part.ids[1 + part.skip :] for part in parts]),
        "window": np.repeat(np.arange(len(parts)), np.diff(offsets)),
        "cluster": _clusters(data, parts, offsets),
        "window_item": np.array([part.item for part in parts]),
        "window_text": np.array(shown),
        "units": np.array([_count(data, str.split), _count(data, str.encode)]),
        "longest": np.array(max(part.end or len(part.ids) for part in parts)),
    }


def _unfilled(total: int, compared: bool) -> dict[str, np.ndarray]:
    """Arrays that the pass over ``total`` tokens fills."""
    found = {"nll": np.empty(total, np.float32)}
    if compared:
        for name in ("js", "kl_forward", "kl_backward"):
            found[name] = np.empty(total, np.float64)
        found["agree"] = np.empty(total, bool)
    return found


def _nll(log_p: torch.Tensor, tokens: np.ndarray) -> np.ndarray:
    """Negative log-likelihoods of ``tokens`` under ``log_p`` ``(tokens, vocabulary)``."""
    targets = torch.as_tensor(tokens, device=log_p.device)
    return -log_p.gather(1, targets[:, None])[:, 0].cpu().numpy()


def _clusters(data: DataSet, parts: list[_Window], offsets: np.ndarray) -> np.ndarray:
    """The document of every predicted token; of a single document, the window."""
    documents = [data.documents[part.item] for part in parts]
    if len(set(data.documents)) == 1:
        documents = list(range(len(parts)))
    return np.repeat(np.array(documents), np.diff(offsets))


def _count(data: DataSet, split) -> int:
    """Words or bytes of what is predicted."""
    texts = (item.expected if isinstance(item, Prompt) else item.text for item in data.items)
    return sum(len(split(text)) for text in texts)


def _writer(
    path: Path | None, offsets: np.ndarray, vocabulary: int, most: float
) -> AbstractContextManager[TableWriter | None]:
    """Writes log-probabilities to ``path``; nothing where there is none, or where they take more
    than ``most`` bytes."""
    needed = int(offsets[-1]) * vocabulary * 4
    if path is None or needed > most:
        return nullcontext()
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise EvalError(
            f"the baseline's predictions take {needed:,} bytes, {path.parent} has {free:,} free; "
            "give less text or another store"
        )
    return TableWriter(path, offsets, vocabulary)


def _table(
    reference: Path | Loaded | None, total: int, loaded: Loaded
) -> AbstractContextManager[PredictionTable | None]:
    """The baseline's log-probabilities, where they are in a file."""
    if not isinstance(reference, Path):
        return nullcontext()
    with ExitStack() as opened:
        expected = opened.enter_context(PredictionTable(reference))
        if (known := expected.shape[0]) != total:
            raise EvalError(
                f"{loaded.checkpoint.label} predicts {total} tokens, its baseline {known}: "
                "tokenizer or context differ, so there is nothing to compare"
            )
        opened.pop_all()
        return expected


def _shared(log_p: torch.Tensor, entries: int) -> torch.Tensor:
    """Log-probabilities ``(rows, vocabulary)`` over the first ``entries``, or themselves where they
    are over no more."""
    return log_p if log_p.shape[-1] <= entries else log_p[..., :entries].log_softmax(-1)


def _inputs(batch: list[_Window], device: torch.device) -> dict[str, torch.Tensor | bool]:
    ids, mask = _right_padded([part.ids for part in batch], device)
    if batch[0].source is None:
        return dict(input_ids=ids, attention_mask=mask, use_cache=False)
    read, read_mask = _right_padded([part.source for part in batch], device)
    return dict(
        input_ids=read, attention_mask=read_mask, decoder_input_ids=ids,
        decoder_attention_mask=mask, use_cache=False,
    )  # fmt: skip


def _right_padded(rows: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids ``(rows, longest)`` and their mask."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, own in enumerate(rows):
        ids[row, : len(own)] = torch.tensor(own)
        mask[row, : len(own)] = 1
    return ids.to(device), mask.to(device)


def _compare(
    expected: PredictionTable | torch.Tensor,
    log_p: torch.Tensor,
    rows: slice,
    result: dict[str, np.ndarray],
) -> None:
    """Divergence of log-probabilities ``(rows, vocabulary)`` from the baseline's, in blocks; over
    the entries that both have."""
    width = (expected if isinstance(expected, PredictionTable) else log_p).shape[1]
    for start, stop in blocks(rows.start, rows.stop, width):
        own = slice(start - rows.start, stop - rows.start)
        mine, here = log_p[own], slice(start, stop)
        if isinstance(expected, PredictionTable):
            theirs = torch.from_numpy(expected.rows(start, stop))
        else:
            theirs = expected[own]
        theirs = theirs.to(mine.device)
        shared = min(theirs.shape[-1], mine.shape[-1])
        js, forward, backward = divergences(_shared(theirs, shared), _shared(mine, shared))
        result["js"][here] = js.cpu().numpy()
        result["kl_forward"][here] = forward.cpu().numpy()
        result["kl_backward"][here] = backward.cpu().numpy()
        result["agree"][here] = (theirs.argmax(-1) == mine.argmax(-1)).cpu().numpy()
