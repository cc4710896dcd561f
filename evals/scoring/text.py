"""One forward pass over text: likelihoods, and divergence from the baseline's predictions.

Text is cut into windows of ``context`` tokens that start ``stride`` tokens apart. A token is
predicted in the first window that contains it, unless it is the first token of that window. If the
stride equals the context, the windows are disjoint, as in the perplexities of papers. For a prompt
with a response, only the response is predicted; an encoder-decoder encodes the prompt.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from compression_gates.evals.checkpoints.checkpoint import SEQ2SEQ
from compression_gates.evals.data.items import DROP, DataSet, Prompt
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.baseline_files import BaselineFiles
from compression_gates.evals.scoring.baseline_predictions import (
    NoBaseline,
    RunBeside,
    StoredLogits,
    StoredStates,
    keep_outputs,
    prediction_writer,
    stored_predictions,
)
from compression_gates.evals.scoring.batches import in_batches, padded
from compression_gates.evals.scoring.comparison import DISTANCES, LIKELIHOOD, score_logits
from compression_gates.evals.scoring.head import PROBED, Predictor
from compression_gates.evals.scoring.prompts import encode_prompts
from compression_gates.evals.scoring.protocols import WINDOW, TextProtocol

SHOWN_TOKENS = 64
"""Number of tokens of a window that are stored as text, to show where a candidate got worse."""
_CPU_ENTRIES, _GPU_ENTRIES = 1 << 23, 1 << 27
"""Number of logits of each side that are in memory at a time."""


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

    def truncated(self, length: int) -> "_Window":
        """Return the first ``length`` tokens."""
        return replace(self, ids=self.ids[:length])


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
    keep: BaselineFiles | None = None,
    reference: BaselineFiles | Loaded | None = None,
    max_logits_bytes: float = math.inf,
) -> dict[str, np.ndarray]:
    """Score every predicted token of ``data``.

    Distances are computed over the entries that both vocabularies have, renormalized, because
    additional rows of one side stand for no token. Likelihoods and top-1 choices are over all
    entries of a model, so that a model that predicts an additional row scores worse, as it does in
    plain use.

    Args:
        loaded: a causal model or an encoder-decoder.
        data: texts, or prompts with responses.
        protocol: windows and batches.
        keep: where to write the predictions, as the reference for candidates.
        reference: the baseline, either as such files or as a model that is run side by side.
        max_logits_bytes: size above which logits are not written, where logits are to be written
            because they cannot be computed from the last hidden states.

    Returns:
        ``tokens``, ``nll`` (in nats), ``window`` and ``cluster`` ``(tokens,)``, in the order of
        the text; ``window_item`` and ``window_text`` ``(windows,)``; ``units`` (number of words,
        number of bytes); ``windowing`` (context, stride); ``longest``, the number of tokens of the
        longest document; ``vocabulary``, the number of entries of a prediction.
        With a reference also ``js``, ``kl_forward`` (KL(baseline, candidate)) and ``kl_backward``
        in nats, ``tv`` (total variation) and ``agree`` (equal top-1 choices), all ``(tokens,)``.

    Raises:
        EvalError: there is no text to score, the tokenization differs from the reference's, or the
            disk is full.
        DamagedError: a file of the reference is not what was written.
    """
    context = min(protocol.context or WINDOW, loaded.max_tokens)
    stride = min(protocol.stride or context, context)
    if isinstance(data.items[0], Prompt):
        windows = response_windows(loaded, data, context, protocol.chat)
    else:
        windows = text_windows(loaded, data, context, stride, protocol.tail == DROP)
    offsets = np.cumsum([0, *(window.predicted for window in windows)])
    total, vocabulary = int(offsets[-1]), loaded.model.get_output_embeddings().out_features
    result = _layout(loaded, data, windows, offsets)
    targets = torch.from_numpy(result["tokens"])
    names = LIKELIHOOD if reference is None else (*LIKELIHOOD, *DISTANCES)
    scores = np.empty((total, len(names)))
    probe = _inputs(loaded, [windows[0].truncated(PROBED)])
    predictor = Predictor(loaded, probe)
    entries = _CPU_ENTRIES if loaded.device.type == "cpu" else _GPU_ENTRIES
    step = max(entries // vocabulary, 1)
    label = f"{loaded.checkpoint.label}: {data.name}"
    with (
        _reference_predictions(reference, probe, total, loaded) as baseline,
        prediction_writer(keep, predictor, offsets, vocabulary, max_logits_bytes) as writer,
    ):

        def run(batch: list[int]) -> None:
            inputs = _inputs(loaded, [windows[index] for index in batch])
            outputs = predictor.run(inputs)
            ranges = [(int(offsets[index]), int(offsets[index + 1])) for index in batch]
            rows = torch.cat([torch.arange(*window) for window in ranges])
            places = _places([windows[index] for index in batch], len(outputs) // len(batch))
            index = torch.cat(places).to(outputs.device)
            parts = []
            for part, expected in baseline.pieces(inputs, index, ranges, step):
                logits = predictor.logits(outputs[index[part]])
                parts.append(score_logits(logits, targets[rows[part]], expected))
            scores[rows] = torch.cat(parts).cpu().numpy()
            if writer is not None:
                keep_outputs(writer, predictor, outputs, places, ranges)

        lengths = [len(window.ids) for window in windows]
        in_batches(lengths, protocol.batch_tokens, run, label, "window")
    result |= zip(names, scores.T.copy(), strict=True)
    result["nll"] = result["nll"].astype(np.float32)
    if reference is not None:
        result["agree"] = result["agree"].astype(bool)
    windowing, size = np.array([context, stride]), np.array(vocabulary)
    return {**result, "windowing": windowing, "vocabulary": size}


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


def _places(windows: list[_Window], width: int) -> list[torch.Tensor]:
    """Return the positions of the predicting tokens of each window, among all tokens of a batch of
    rows of ``width`` tokens."""
    return [
        torch.arange(row * width + window.skip, row * width + len(window.ids) - 1)
        for row, window in enumerate(windows)
    ]


@contextmanager
def _reference_predictions(
    reference: BaselineFiles | Loaded | None,
    probe: Mapping[str, object],
    total: int,
    loaded: Loaded,
) -> Iterator[StoredStates | StoredLogits | RunBeside | NoBaseline]:
    """Open the baseline's predictions."""
    if reference is None:
        yield NoBaseline()
    elif isinstance(reference, Loaded):
        yield RunBeside(Predictor(reference, probe))
    else:
        with stored_predictions(reference, loaded.device) as (predictions, expected):
            if expected != total:
                raise EvalError(
                    f"{loaded.checkpoint.label} predicts {total} tokens and its baseline "
                    f"{expected}; they cannot be compared, because the tokenizer or the context "
                    "differs"
                )
            yield predictions


def _inputs(loaded: Loaded, batch: list[_Window]) -> dict[str, torch.Tensor | bool]:
    target = padded(loaded, [window.ids for window in batch])
    if batch[0].source is None:
        return {**target, "use_cache": False}
    decoder = {f"decoder_{name}": tensor for name, tensor in target.items()}
    return {**padded(loaded, [window.source for window in batch]), **decoder, "use_cache": False}
