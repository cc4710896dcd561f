"""Texts as batches: what a step of a recipe sees."""

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
"""Texts that are calibrated on together."""
_LIMITS = ("max_position_embeddings", "max_seq_len")
LENGTH = 2048
"""Tokens of a text at most, where a step does not say how many."""


def batches_of(
    step: Step,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    labels: Sequence[int] | None = None,
    size: int = BATCH,
) -> list[Batch]:
    """Batches of texts, padded on the right, for one step.

    Args:
        step: says how many texts, how long, by which seed, and what to add to them.
        model: what they are for.
        tokenizer: its tokenizer.
        texts: to choose from.
        labels: the class of each, where there are any.
        size: texts of a batch; a step that trains says its own.

    A model that generates from an encoder's output is given each text as its target too.

    Raises:
        CompressionError: no text, or a label that the model has no class for.
    """
    if not texts:
        raise CompressionError(f"{step.name}: no text to calibrate or train on")
    known: list[int | None] = [None] * len(texts) if labels is None else list(labels)
    order = list(range(len(texts)))
    if step["samples"] is not None and step["samples"] < len(order):
        order = sorted(random.Random(step["seed"]).sample(order, step["samples"]))
    if trains(step):
        random.Random(step["seed"]).shuffle(order)
    chosen, known = [texts[i] for i in order], [known[i] for i in order]
    if step.settings.get("generate") or step.settings.get("translate"):
        from compression_gates.compression.distillation.augment import augment_texts

        chosen, known = augment_texts(
            chosen, known, step["generate"], step["translate"], step["seed"], model.device
        )
    check_labels(model, known)
    if trains(step):
        size = step["batch"]
    most = min(step["length"] or LENGTH, tokenizer.model_max_length, longest_input(model))
    encoded = tokenizer(list(chosen), truncation=True, max_length=most).input_ids
    found = []
    for start in range(0, len(encoded), size):
        part = slice(start, start + size)
        batch = padded(encoded[part], padding_token(model, tokenizer))
        labels = [IGNORED if label is None else label for label in known[part]]
        if is_seq2seq(model):
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        elif not is_causal(model) and any(label is not None for label in known[part]):
            batch["labels"] = torch.tensor(labels)
        found.append({key: value.to(model.device) for key, value in batch.items()})
    return found


def padding_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """What short texts are filled up with: the model's padding, the tokenizer's, or, where there is
    none, its end of text."""
    own = getattr(model.config.get_text_config(), "pad_token_id", None)
    choices = (own, tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((token for token in choices if token is not None and token >= 0), 0)


def check_labels(model: PreTrainedModel, labels: Sequence[int | None]) -> None:
    """Raises a CompressionError where a label is no class of the model."""
    if is_causal(model) or is_seq2seq(model):
        return
    classes = getattr(model.config, "num_labels", 0)
    for number, label in enumerate(labels, 1):
        if label is not None and not 0 <= label < classes:
            raise CompressionError(
                f"text {number} has label {label}, but the model knows {classes} classes"
            )


def padded(rows: Sequence[list[int]], filler: int) -> dict[str, Tensor]:
    """Rows of tokens as ``input_ids`` and ``attention_mask``, padded on the right.

    Raises:
        CompressionError: a text without any token.
    """
    if not all(rows):
        raise CompressionError("a text has no token; leave empty texts out")
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [filler] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor(
            [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        ),
    }


def longest_input(model: PreTrainedModel) -> int:
    """The most tokens that the model takes, special tokens included."""
    config = model.config.get_text_config()
    limits = [getattr(config, key, None) for key in _LIMITS]
    # XLNet says -1: it has no limit.
    limit = min((n for n in limits if isinstance(n, int) and n > 0), default=LENGTH)
    for name, module in model.named_modules():
        # RoBERTa counts positions from behind its padding index.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            behind = 0 if module.padding_idx is None else module.padding_idx + 1
            limit = min(limit, module.num_embeddings - behind)
    return limit
