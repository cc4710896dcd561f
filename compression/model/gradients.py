"""Compute the task loss of a model, and its gradients over calibration batches."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.capture import Batch, without_cache

IGNORED = -100
"""Label of positions that the loss ignores."""
_DECODERS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM")
_CLASSIFIERS = ("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "QUESTION_ANSWERING")


@cache
def _classes(tasks: tuple[str, ...]) -> frozenset[str]:
    """Return the names of the classes that transformers maps to any of ``tasks``."""
    classes: set[str] = set()
    for task in tasks:
        table = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {})
        for names in table.values():
            classes |= {names} if isinstance(names, str) else set(names)
    return frozenset(classes)


def _is_for(model: PreTrainedModel, tasks: tuple[str, ...]) -> bool:
    return any(kind.__name__ in _classes(tasks) for kind in type(model).__mro__)


def is_causal(model: PreTrainedModel) -> bool:
    """Return whether the model predicts the next token of its input."""
    return not model.config.is_encoder_decoder and _is_for(model, _DECODERS)


def is_seq2seq(model: PreTrainedModel) -> bool:
    """Return whether the model is an encoder-decoder model that generates text."""
    return bool(model.config.is_encoder_decoder) and not _is_for(model, _CLASSIFIERS)


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    """Return a batch without its labels."""
    return {key: value for key, value in batch.items() if key != "labels"}


def task_loss(model: PreTrainedModel, batch: Batch, logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of ``logits`` on the task of the model, in float32.

    The targets are the next tokens for a causal model, classes or target tokens otherwise. Without
    labels, they are the most likely classes according to ``logits``.

    Raises:
        CompressionError: the batch has no target, or the model has a single output.
    """
    logits, targets = predictions(model, batch, logits)
    return F.cross_entropy(logits, targets, ignore_index=IGNORED)


def predictions(model: PreTrainedModel, batch: Batch, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits ``(n, classes)`` in float32 and targets ``(n,)``, some :data:`IGNORED`."""
    logits = logits.float()
    if logits.shape[-1] < 2:
        raise CompressionError(
            f"{type(model).__name__} has a single output, but cross-entropy needs several classes"
        )
    if is_causal(model):
        targets = batch["input_ids"].clone()
        if "labels" in batch and batch["labels"].shape == targets.shape:
            targets = batch["labels"]
        elif "attention_mask" in batch:
            targets = targets.masked_fill(batch["attention_mask"] == 0, IGNORED)
        logits, targets = logits[:, :-1], targets[:, 1:]
        if "attention_mask" in batch:
            # A first token after left padding would be predicted from padding.
            targets = targets.masked_fill(batch["attention_mask"][:, :-1] == 0, IGNORED)
    else:
        targets = batch.get("labels")
        if targets is None:
            targets = logits.detach().argmax(-1)
            if "attention_mask" in batch and targets.shape == batch["attention_mask"].shape:
                targets = targets.masked_fill(batch["attention_mask"] == 0, IGNORED)
    if (targets == IGNORED).all():
        raise CompressionError("a batch has no token to predict; give texts of at least two tokens")
    return logits.flatten(0, -2), targets.flatten()


def losses(
    model: PreTrainedModel, batches: Sequence[Batch], desc: str
) -> Iterator[tuple[Tensor, int]]:
    """Yield the task loss of each batch, with its graph, and the number of targets.

    Raises:
        CompressionError: there is no batch, or a loss is not finite.
    """
    if not batches:
        raise CompressionError("gradients need at least one batch of text")
    for batch in tqdm(batches, desc=desc, unit="batch", leave=False, disable=None):
        inputs = batch if is_seq2seq(model) else inputs_of(batch)
        with without_cache(model):
            outputs = model(**inputs)
        logits, targets = predictions(model, batch, outputs.logits)
        loss = F.cross_entropy(logits, targets, ignore_index=IGNORED)
        if not loss.isfinite():
            raise CompressionError("the loss on the calibration data is not finite")
        yield loss, int((targets != IGNORED).sum())


@contextmanager
def gradients_enabled(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Enable gradients, also of frozen parameters, which are frozen again on exit."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def mean_gradients(
    model: PreTrainedModel, parameters: Sequence[Tensor], batches: Sequence[Batch], desc: str
) -> list[Tensor]:
    """Return the gradients of the mean loss over all targets of the batches, in float32."""
    totals = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    targets = 0
    with gradients_enabled(parameters):
        for loss, count in losses(model, batches, desc):
            targets += count
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for total, gradient in zip(totals, gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.float(), alpha=count)
    return [total / targets for total in totals]
