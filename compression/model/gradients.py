"""The loss of a model on a batch, and its gradients, accumulated over calibration batches."""

from collections.abc import Iterator, Sequence
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
"""A label that counts for nothing."""


_DECODERS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM")
_CLASSIFIERS = ("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "QUESTION_ANSWERING")


@cache
def _classes(tasks: tuple[str, ...]) -> frozenset[str]:
    """Names of the classes that transformers has for some tasks."""
    found: set[str] = set()
    for task in tasks:
        table = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {})
        for names in table.values():
            found |= {names} if isinstance(names, str) else set(names)
    return frozenset(found)


def _is_for(model: PreTrainedModel, tasks: tuple[str, ...]) -> bool:
    return any(kind.__name__ in _classes(tasks) for kind in type(model).__mro__)


def is_causal(model: PreTrainedModel) -> bool:
    """Whether the model predicts the next token of its own input."""
    return not model.config.is_encoder_decoder and _is_for(model, _DECODERS)


def is_seq2seq(model: PreTrainedModel) -> bool:
    """Whether the model decodes a text of its own from an encoder's output."""
    return bool(model.config.is_encoder_decoder) and not _is_for(model, _CLASSIFIERS)


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    """A batch without its labels."""
    return {key: value for key, value in batch.items() if key != "labels"}


def task_loss(model: PreTrainedModel, batch: Batch, logits: Tensor) -> Tensor:
    """Mean cross-entropy of ``logits`` on the task of the model, in float32.

    Next tokens for a causal model, classes or target tokens otherwise. Where a classifier's batch
    has no labels, its own most likely classes stand for them.

    Raises:
        CompressionError: nothing to predict, or a model with a single output.
    """
    logits, targets = predictions(model, batch, logits)
    return F.cross_entropy(logits, targets, ignore_index=IGNORED)


def predictions(model: PreTrainedModel, batch: Batch, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(n, classes)`` in float32 and targets ``(n,)``, :data:`IGNORED` for none."""
    logits = logits.float()
    if logits.shape[-1] < 2:
        raise CompressionError(
            f"{type(model).__name__} has a single output, which cross-entropy cannot train"
        )
    if is_causal(model):
        targets = batch["input_ids"].clone()
        if "labels" in batch and batch["labels"].shape == targets.shape:
            targets = batch["labels"]
        elif "attention_mask" in batch:
            targets = targets.masked_fill(batch["attention_mask"] == 0, IGNORED)
        logits, targets = logits[:, :-1], targets[:, 1:]
        if "attention_mask" in batch:
            # Nor does the first token behind padding, which would be predicted from padding.
            targets = targets.masked_fill(batch["attention_mask"][:, :-1] == 0, IGNORED)
    else:
        targets = batch.get("labels")
        if targets is None:
            targets = logits.detach().argmax(-1)
            if "attention_mask" in batch and targets.shape == batch["attention_mask"].shape:
                targets = targets.masked_fill(batch["attention_mask"] == 0, IGNORED)
    if (targets == IGNORED).all():
        raise CompressionError("a batch holds nothing to predict: texts of one token, say")
    return logits.flatten(0, -2), targets.flatten()


def losses(
    model: PreTrainedModel, batches: Sequence[Batch], desc: str
) -> Iterator[tuple[Tensor, int]]:
    """The task loss of each batch, with a graph behind it, and how many targets it is the mean of.

    Raises:
        CompressionError: no batch, or a loss that is not finite.
    """
    if not batches:
        raise CompressionError("gradients need at least one batch of text")
    for batch in tqdm(batches, desc=desc, unit="batch", leave=False, disable=None):
        keep = batch if is_seq2seq(model) else inputs_of(batch)
        with without_cache(model):
            outputs = model(**keep)
        logits, targets = predictions(model, batch, outputs.logits)
        loss = F.cross_entropy(logits, targets, ignore_index=IGNORED)
        if not loss.isfinite():
            raise CompressionError("the loss on the calibration data is not finite")
        yield loss, int((targets != IGNORED).sum())


def mean_gradients(
    model: PreTrainedModel, parameters: Sequence[Tensor], batches: Sequence[Batch], desc: str
) -> list[Tensor]:
    """Gradient of the mean loss over all targets of the batches, for each parameter, in float32."""
    found = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    targets = 0
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            for loss, count in losses(model, batches, desc):
                targets += count
                parts = torch.autograd.grad(loss, parameters, allow_unused=True)
                for total, part in zip(found, parts, strict=True):
                    if part is not None:
                        total.add_(part.float(), alpha=count)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return [total / targets for total in found]
