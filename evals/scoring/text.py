"""One forward pass over text: likelihoods, and divergence from the baseline's predictions.

Text is cut into windows of ``context`` tokens that start ``stride`` tokens apart. A token is
predicted in the first window that contains it, unless it is the first token of that window. If the
stride equals the context, the windows are disjoint, as in the perplexities of papers. For a prompt
with a response, only the response is predicted; an encoder-decoder encodes the prompt.
"""

import math
import shutil
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compression_gates.evals.checkpoints.checkpoint import SEQ2SEQ
from compression_gates.evals.data.items import DROP, DataSet, Prompt
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.batches import in_batches, padded
from compression_gates.evals.scoring.divergence import divergences
from compression_gates.evals.scoring.prediction_table import PredictionTable, TableWriter, blocks
from compression_gates.evals.scoring.prompts import encode_prompts
from compression_gates.evals.scoring.protocols import WINDOW, TextProtocol

SHOWN_TOKENS = 64
"""Number of tokens of a window that are stored as text, to show where a candidate got worse."""


@dataclass(frozen=True)
class _Window:
    """Tokens that are scored together.

    Attributes:
        ids: token ids of the window.
        skip: number of leading tokens, after the first one, that are not predicted: they belong to
            the prompt or were predicted in an earlier window.
        item: index of the item.
        source: token ids for the encoder; None for a model without one.
        end: position of the end of the window in its document.
    """

    ids: list[int]
    skip: int
    item: int
    source: list[int] | None = None
    end: int = 0

    @property
    def predicted(self) -> int:
        """The number of tokens that are predicted."""
        return len(self.ids) - 1 - self.skip


def text_windows(
    loaded: Loaded, data: DataSet, context: int, stride: int, drop_tail: bool
) -> list[_Window]:
    """Return the windows of texts in which at least one token is predicted, in order.

    Args:
        loaded: the model, whose tokenizer is used.
        data: texts.
        context: number of tokens of a window.
        stride: number of tokens between the starts of windows.
        drop_tail: whether a last window that is shorter than ``context`` is left out.

    Raises:
        EvalError: no text is long enough.
    """
    windows = []
    for index, item in enumerate(data.items):
        ids = loaded.tokenizer(item.text, verbose=False).input_ids
        predicted_to = 1  # the first token has no predecessor to be predicted from
        for start in range(0, len(ids), stride):
            stop = min(start + context, len(ids))
            if drop_tail and stop - start < context:
                break
            if stop > max(predicted_to, start + 1):
                skip = max(predicted_to - start - 1, 0)
                windows.append(_Window(ids[start:stop], skip, index, end=stop))
                predicted_to = stop
    if not windows:
        required = f"{context} tokens" if drop_tail else "two tokens or more"
        raise EvalError(f"data set {data.name}: no text of {required}")
    return windows


def response_windows(loaded: Loaded, data: DataSet, context: int, chat: bool) -> list[_Window]:
    """Return one window for each prompt with a response; items without a response have none.

    Args:
        loaded: the model.
        data: prompts with expected responses.
        context: largest number of tokens of a prompt with its response, or of the response alone
            if an encoder reads the prompt.
        chat: as for :func:`evals.scoring.prompts.encode_prompts`.

    Raises:
        EvalError: a prompt and its response are longer than ``context``, or there is no response.
    """
    has_encoder = loaded.checkpoint.kind == SEQ2SEQ
    prompts = encode_prompts(loaded, data, chat)
    separator = "" if has_encoder or chat else " "
    responses = [f"{separator}{item.expected}" for item in data.items]
    targets = loaded.tokenizer(responses, add_special_tokens=has_encoder, verbose=False).input_ids
    windows = []
    for index, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        length = len(target) + (0 if has_encoder else len(prompt))
        if length > context:
            raise EvalError(
                f"data set {data.name}: prompt {index + 1} and its response are longer than "
                f"{context} tokens"
            )
        if not target:
            continue
        if has_encoder:
            windows.append(_Window([loaded.decoder_start_token_id, *target], 0, index, prompt))
        else:
            windows.append(_Window([*prompt, *target], len(prompt) - 1, index))
    if not windows:
        raise EvalError(f"data set {data.name}: no response to predict")
    return windows


@torch.inference_mode()
def score_text(
    loaded: Loaded,
    data: DataSet,
    protocol: TextProtocol,
    keep: Path | None = None,
    reference: Path | Loaded | None = None,
    max_table_bytes: float = math.inf,
) -> dict[str, np.ndarray]:
    """Score every predicted token of ``data``.

    Divergences are computed over the entries that both vocabularies have, renormalized, because
    additional rows of one side stand for no token. Likelihoods and top-1 choices are over all
    entries of a model, so that a model that predicts an additional row scores worse, as it does in
    plain use.

    Args:
        loaded: a causal model or an encoder-decoder.
        data: texts, or prompts with responses.
        protocol: windows and batches.
        keep: where to write the log-probabilities ``(tokens, vocabulary)`` in float32, as the
            reference for candidates.
        reference: the baseline, either as such a file or as a model that is run side by side.
        max_table_bytes: size above which the log-probabilities are not written.

    Returns:
        ``tokens``, ``nll`` (in nats), ``window`` and ``cluster`` ``(tokens,)``, in the order of
        the text; ``window_item`` and ``window_text`` ``(windows,)``; ``units`` (number of words,
        number of bytes); ``windowing`` (context, stride); ``longest``, the number of tokens of the
        longest document; ``vocabulary``, the number of entries of a prediction.
        With a reference also ``js``, ``kl_forward`` (KL(baseline, candidate)) and ``kl_backward``
        in nats, and ``agree`` (equal top-1 choices), all ``(tokens,)``.

    Raises:
        EvalError: there is no text to score, the tokenization differs from the reference's, or the
            disk is full.
        DamagedError: the file of the reference is not what was written.
    """
    context = min(protocol.context or WINDOW, loaded.max_tokens)
    stride = min(protocol.stride or context, context)
    if isinstance(data.items[0], Prompt):
        windows = response_windows(loaded, data, context, protocol.chat)
    else:
        windows = text_windows(loaded, data, context, stride, protocol.tail == DROP)
    offsets = np.cumsum([0, *(window.predicted for window in windows)])
    total, vocabulary = int(offsets[-1]), loaded.model.get_output_embeddings().out_features
    result = {
        **_layout(loaded, data, windows, offsets),
        "windowing": np.array([context, stride]),
        "vocabulary": np.array(vocabulary),
        "nll": np.empty(total, np.float32),
    }
    if reference is not None:
        result |= {name: np.empty(total) for name in ("js", "kl_forward", "kl_backward")}
        result["agree"] = np.empty(total, bool)
    label = f"{loaded.checkpoint.label}: {data.name}"
    with (
        _reference_table(reference, total, loaded) as table,
        _table_writer(keep, offsets, vocabulary, max_table_bytes) as writer,
    ):

        def run(batch: list[int]) -> None:
            inputs = _inputs(loaded, [windows[index] for index in batch])
            logits = loaded.model(**inputs).logits
            if isinstance(reference, Loaded):
                baseline_logits = reference.model(**inputs).logits
            for row, index in enumerate(batch):
                window, rows = windows[index], slice(int(offsets[index]), int(offsets[index + 1]))
                predicting = row, slice(window.skip, len(window.ids) - 1)
                log_p = logits[predicting].float().log_softmax(-1)
                result["nll"][rows] = _nll(log_p, result["tokens"][rows])
                if writer is not None:
                    writer.put(rows.start, log_p.cpu().numpy())
                if table is not None:
                    _compare(table, log_p, rows, result)
                elif reference is not None:
                    expected = baseline_logits[predicting].float().log_softmax(-1)
                    _compare(expected, log_p, rows, result)

        lengths = [len(window.ids) for window in windows]
        in_batches(lengths, protocol.batch_tokens, run, label, "window")
    return result


def _layout(
    loaded: Loaded, data: DataSet, windows: list[_Window], offsets: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the arrays that do not depend on the model's predictions."""
    texts = [item.expected if isinstance(item, Prompt) else item.text for item in data.items]
    shown = [loaded.tokenizer.decode(window.ids[:SHOWN_TOKENS]) for window in windows]
    documents = [data.documents[window.item] for window in windows]
    if len(set(data.documents)) == 1:  # the windows of a single document are the clusters
        documents = range(len(windows))
    predicted = np.diff(offsets)
    return {
        "tokens": np.concatenate([window.ids[1 + window.skip :] for window in windows]),
        "window": np.repeat(np.arange(len(windows)), predicted),
        "cluster": np.repeat(np.array(documents), predicted),
        "window_item": np.array([window.item for window in windows]),
        "window_text": np.array(shown),
        "units": np.array(
            [sum(len(count(text)) for text in texts) for count in (str.split, str.encode)]
        ),
        "longest": np.array(max(window.end or len(window.ids) for window in windows)),
    }


def _nll(log_p: torch.Tensor, tokens: np.ndarray) -> np.ndarray:
    """Return negative log-likelihoods, given log-probabilities ``(tokens, vocabulary)``."""
    targets = torch.as_tensor(tokens, device=log_p.device)
    return -log_p.gather(1, targets[:, None])[:, 0].cpu().numpy()


def _table_writer(
    path: Path | None, offsets: np.ndarray, vocabulary: int, max_bytes: float
) -> AbstractContextManager[TableWriter | None]:
    """Open a table of log-probabilities for writing; None if there is no path or the table would
    have more than ``max_bytes``."""
    needed = int(offsets[-1]) * vocabulary * 4
    if path is None or needed > max_bytes:
        return nullcontext()
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise EvalError(
            f"the baseline's predictions take {needed:,} bytes, but {path.parent} has {free:,} "
            "free; use less text or another store"
        )
    return TableWriter(path, offsets, vocabulary)


def _reference_table(
    reference: Path | Loaded | None, total: int, loaded: Loaded
) -> AbstractContextManager[PredictionTable | None]:
    """Open the baseline's log-probabilities if they are in a file."""
    if not isinstance(reference, Path):
        return nullcontext()
    with ExitStack() as stack:
        table = stack.enter_context(PredictionTable(reference))
        if (expected := table.shape[0]) != total:
            raise EvalError(
                f"{loaded.checkpoint.label} predicts {total} tokens and its baseline {expected}; "
                "they cannot be compared, because the tokenizer or the context differs"
            )
        stack.pop_all()
        return table


def _shared(log_p: torch.Tensor, entries: int) -> torch.Tensor:
    """Return log-probabilities ``(rows, vocabulary)``, renormalized to the first ``entries``."""
    return log_p if log_p.shape[-1] <= entries else log_p[..., :entries].log_softmax(-1)


def _inputs(loaded: Loaded, batch: list[_Window]) -> dict[str, torch.Tensor | bool]:
    target = padded(loaded, [window.ids for window in batch])
    if batch[0].source is None:
        return {**target, "use_cache": False}
    decoder = {f"decoder_{name}": tensor for name, tensor in target.items()}
    return {**padded(loaded, [window.source for window in batch]), **decoder, "use_cache": False}


def _compare(
    expected: PredictionTable | torch.Tensor,
    log_p: torch.Tensor,
    rows: slice,
    result: dict[str, np.ndarray],
) -> None:
    """Compare log-probabilities ``(rows, vocabulary)`` with the baseline's, block by block, and
    write the divergences and top-1 agreements into ``result``."""
    is_table = isinstance(expected, PredictionTable)
    width = (expected if is_table else log_p).shape[1]
    for start, stop in blocks(rows.start, rows.stop, width):
        block = slice(start - rows.start, stop - rows.start)
        log_q = log_p[block]
        if is_table:
            baseline = torch.from_numpy(expected.rows(start, stop)).to(log_q.device)
        else:
            baseline = expected[block].to(log_q.device)
        shared = min(baseline.shape[-1], log_q.shape[-1])
        js, forward, backward = divergences(_shared(baseline, shared), _shared(log_q, shared))
        result["js"][start:stop] = js.cpu().numpy()
        result["kl_forward"][start:stop] = forward.cpu().numpy()
        result["kl_backward"][start:stop] = backward.cpu().numpy()
        result["agree"][start:stop] = (baseline.argmax(-1) == log_q.argmax(-1)).cpu().numpy()
