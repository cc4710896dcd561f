"""Texts as batches: what a step of a recipe sees."""

import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compression.errors import CompressionError
from compression.gradients import is_causal
from compression.recipe import Step, trains
from compression.watching import Batch

BATCH = 16
"""Texts that are calibrated on together."""


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
        from compression.distillation.augment import augmented

        chosen, known = augmented(
            chosen, known, step["generate"], step["translate"], step["seed"], model.device
        )
    classes = getattr(model.config, "num_labels", 0)
    wrong = next((k for k in known if k is not None and not 0 <= k < classes), None)
    if not is_causal(model) and wrong is not None:
        raise CompressionError(f"label {wrong} is not one of the model's {classes} classes")
    if trains(step):
        size = step["batch"]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # masked wherever it stands
    encoded = [_encoded(tokenizer, text, step["length"]) for text in chosen]
    found = []
    for start in range(0, len(encoded), size):
        part = slice(start, start + size)
        batch = dict(
            tokenizer.pad({"input_ids": encoded[part]}, padding_side="right", return_tensors="pt")
        )
        if not is_causal(model) and all(label is not None for label in known[part]):
            batch["labels"] = torch.tensor(known[part])
        found.append({key: value.to(model.device) for key, value in batch.items()})
    return found


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, length: int | None) -> list[int]:
    most = tokenizer.model_max_length if length is None else min(length, tokenizer.model_max_length)
    return tokenizer(text, truncation=True, max_length=most).input_ids
