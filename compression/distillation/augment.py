"""More texts for a student: sampled from a causal model, or translated there and back.

Sampling (as in Tang et al. 2019, "Natural language generation for effective knowledge
distillation"): texts are continued from the first words of real ones. Back-translation (Sennrich
et al. 2016; Edunov et al. 2018): a text translated into another language and back says the same in
other words, so it keeps its label. Both models are the user's, by directory or hub id.
"""

import copy
from collections.abc import Sequence

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compression_gates.compression.model.capture import forked_rng
from compression_gates.compression.model.loading import load

BATCH = 16
"""Texts that are generated together."""


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
    """One new text for each of ``texts``, sampled on from its first tokens.

    Args:
        model: a causal model in evaluation mode.
        tokenizer: its tokenizer.
        texts: where the prompts come from.
        prompt_tokens: tokens that a prompt takes from its text.
        max_new_tokens: how much longer a text may get.
        temperature, top_p: of the sampling.
        seed: of the sampling; the global generator is left as it was.
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
    """Each of ``texts`` translated by ``there`` and again by ``back``, in the same order.

    Args:
        there, back: seq2seq models in evaluation mode with their tokenizers.
        texts: in the language that ``there`` reads.
        max_new_tokens: of a translation.
        beams: of the search; 1 is greedy.
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
    found = []
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
        found += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return found


def augmented(
    texts: Sequence[str],
    labels: Sequence[int] | None,
    generator: str | None,
    translators: Sequence[str],
    seed: int,
    device: torch.device,
) -> tuple[list[str], list[int | None]]:
    """``texts`` and what models make of them, with labels; a sampled text has none.

    Args:
        texts: real ones.
        labels: one each, or None.
        generator: a causal model to sample from, by directory or hub id, or None.
        translators: two seq2seq models, there and back, or none.
        seed: of the sampling.
        device: where the models run.

    Raises:
        CompressionError: a model that does not load.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    found = list(texts)
    known: list[int | None] = [None] * len(texts) if labels is None else list(labels)
    if generator is not None:
        model = load(generator, "generate =", device, AutoModelForCausalLM)
        found += sample_texts(*model, texts, seed=seed)
        known += [None] * len(texts)
    if translators:
        there, back = (
            load(name, "translate =", device, AutoModelForSeq2SeqLM) for name in translators
        )
        found += back_translate(there, back, texts)
        known += known[: len(texts)]
    return found, known
