"""Tokenize texts into the batches of a step."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.gradients import IGNORED, is_causal, is_seq2seq
from compression_gates.compression.recipe import Step, trains

BATCH = 16
"""Texts per calibration batch."""
_LIMITS = ("max_position_embeddings", "max_seq_len")
LENGTH = 2048
"""Maximum tokens per text, if a step does not set it."""


def batches_of(
    step: Step,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    labels: Sequence[int] | None = None,
    size: int = BATCH,
) -> list[Batch]:
    """Return batches of texts, padded on the right, for one step.

    For an encoder-decoder model that generates text, each text is also its target.

    Args:
        step: sets the number of texts, their length, the seed, and the augmentation.
        model: the model that the batches are for.
        tokenizer: the tokenizer of the model.
        texts: the texts to choose from.
        labels: the class of each text, or None.
        size: texts per batch; a step that trains has a setting for it.

    Raises:
        CompressionError: there is no text, or a label is not a class of the model.
    """
    if not texts:
        raise CompressionError(f"{step.name}: no text to calibrate or train on")
    classes: list[int | None] = [None] * len(texts) if labels is None else list(labels)
    order = list(range(len(texts)))
    if step["samples"] is not None and step["samples"] < len(order):
        order = sorted(random.Random(step["seed"]).sample(order, step["samples"]))
    if trains(step):
        random.Random(step["seed"]).shuffle(order)
    chosen, classes = [texts[i] for i in order], [classes[i] for i in order]
    if step.settings.get("generate") or step.settings.get("translate"):
        from compression_gates.compression.distillation.augment import augment_texts

        chosen, classes = augment_texts(
            chosen, classes, step["generate"], step["translate"], step["seed"], model.device
        )
    check_labels(model, classes)
    if trains(step):
        size = step["batch"]
    length = min(step["length"] or LENGTH, tokenizer.model_max_length, longest_input(model))
    encoded = tokenizer(list(chosen), truncation=True, max_length=length).input_ids
    batches = []
    for start in range(0, len(encoded), size):
        part = slice(start, start + size)
        batch = padded(encoded[part], padding_token(model, tokenizer))
        if is_seq2seq(model):
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        elif not is_causal(model) and any(label is not None for label in classes[part]):
            labels = [IGNORED if label is None else label for label in classes[part]]
            batch["labels"] = torch.tensor(labels)
        batches.append({key: value.to(model.device) for key, value in batch.items()})
    return batches


def padding_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the padding token of the model or the tokenizer, or else the end-of-text token."""
    pad_token_id = getattr(model.config.get_text_config(), "pad_token_id", None)
    choices = (pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((token for token in choices if token is not None and token >= 0), 0)


def check_labels(model: PreTrainedModel, labels: Sequence[int | None]) -> None:
    """Raise a CompressionError if a label is not a class of the model."""
    if is_causal(model) or is_seq2seq(model):
        return
    classes = getattr(model.config, "num_labels", 0)
    for number, label in enumerate(labels, 1):
        if label is not None and not 0 <= label < classes:
            raise CompressionError(
                f"text {number} has label {label}, but the model has {classes} classes"
            )


def padded(rows: Sequence[list[int]], padding: int) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask`` ``(rows, longest)``, padded on the right.

    Raises:
        CompressionError: a row has no token.
    """
    if not all(rows):
        raise CompressionError("a text has no token; remove empty texts")
    longest = max(map(len, rows))
    ids = [row + [padding] * (longest - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def longest_input(model: PreTrainedModel) -> int:
    """Return the maximum input length of the model, including special tokens."""
    config = model.config.get_text_config()
    limits = [getattr(config, key, None) for key in _LIMITS]
    # XLNet has -1 for no limit.
    limit = min((n for n in limits if isinstance(n, int) and n > 0), default=LENGTH)
    for name, module in model.named_modules():
        # The first position of RoBERTa is the one after its padding index.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            limit = min(limit, module.num_embeddings - first)
    return limit
