"""Augmentation of training texts by sampling from a causal model and by back-translation.

Sampling continues the first tokens of real texts (as in Tang et al. 2019, "Natural language
generation for effective knowledge distillation"). Back-translation translates a text into another
language and back (Sennrich et al. 2016; Edunov et al. 2018). The result has the same meaning and
therefore the same label.
"""

import copy
from collections.abc import Sequence

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compression_gates.compression.model.capture import forked_rng
from compression_gates.compression.model.pretrained import load

BATCH = 16
"""Number of texts that are generated together."""


@torch.no_grad()
def sample_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    prompt_tokens: int = 4,
    max_new_tokens: int = 48,
    temperature: float = 1.0,
    top_p: float = 0.95,
    seed: int = 0,
) -> list[str]:
    """Return one new text for each of ``texts``, sampled as a continuation of its first tokens.

    Args:
        model: a causal model in evaluation mode.
        tokenizer: its tokenizer.
        texts: the texts whose first tokens are the prompts.
        prompt_tokens: number of tokens of a prompt.
        max_new_tokens: largest number of sampled tokens.
        temperature, top_p: of the sampling.
        seed: of the sampling; the global generator is not changed.
    """
    prompts = [
        tokenizer.decode(
            tokenizer(text, add_special_tokens=False).input_ids[:prompt_tokens],
            skip_special_tokens=True,
        )
        for text in texts
    ]
    options = dict(
        do_sample=True, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens
    )
    with forked_rng(model.device):
        torch.manual_seed(seed)
        return _generate(model, tokenizer, prompts, "sampling texts", side="left", **options)


@torch.no_grad()
def back_translate(
    there: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    back: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    texts: Sequence[str],
    max_new_tokens: int = 128,
    beams: int = 1,
) -> list[str]:
    """Return each of ``texts`` translated by ``there`` and then by ``back``, in the same order.

    Args:
        there, back: seq2seq models in evaluation mode with their tokenizers.
        texts: in the source language of ``there``.
        max_new_tokens: largest number of tokens of a translation.
        beams: number of beams; 1 is greedy decoding.
    """
    options = dict(do_sample=False, num_beams=beams, max_new_tokens=max_new_tokens)
    foreign = _generate(*there, texts, "translating", side="right", **options)
    return _generate(*back, foreign, "translating back", side="right", **options)


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    desc: str,
    side: str,
    **options: object,
) -> list[str]:
    if tokenizer.pad_token_id is None:
        tokenizer = copy.copy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    generated = []
    starts = range(0, len(texts), BATCH)
    for start in tqdm(starts, desc=desc, unit="batch", leave=False, disable=None):
        batch = tokenizer(
            list(texts[start : start + BATCH]),
            padding=True,
            truncation=True,
            padding_side=side,
            return_tensors="pt",
        ).to(model.device)
        batch.pop("token_type_ids", None)
        ids = model.generate(**batch, pad_token_id=tokenizer.pad_token_id, **options)
        generated += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return generated


def augment_texts(
    texts: Sequence[str],
    labels: Sequence[int] | None,
    generator: str | None,
    translators: Sequence[str],
    seed: int,
    device: torch.device,
) -> tuple[list[str], list[int | None]]:
    """Return ``texts`` followed by generated ones, and the label of each text or None.

    Sampled texts have no label.

    Args:
        texts: the real texts.
        labels: one for each text, or None.
        generator: directory or hub id of a causal model to sample from, or None.
        translators: directories or hub ids of two seq2seq models that translate the texts there and
            back, or empty.
        seed: of the sampling.
        device: where the models run.

    Raises:
        CompressionError: a model cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    augmented = list(texts)
    known: list[int | None] = [None] * len(texts) if labels is None else list(labels)
    if generator is not None:
        model = load(generator, "generate =", device, AutoModelForCausalLM)
        augmented += sample_texts(*model, texts, seed=seed)
        known += [None] * len(texts)
    if translators:
        there, back = (
            load(name, "translate =", device, AutoModelForSeq2SeqLM) for name in translators
        )
        augmented += back_translate(there, back, texts)
        known += known[: len(texts)]
    return augmented, known
