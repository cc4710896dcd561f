"""Small random models with a tokenizer, texts and a candidate in which one module is changed."""

import copy
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from compression_gates.evals.checkpoints.checkpoint import (
    CAUSAL,
    CLASSIFIER,
    SEQ2SEQ,
    Checkpoint,
)
from compression_gates.evals.data.items import DataSet, Prompt, Text
from compression_gates.evals.models.loading import Loaded
from tests.compression import zoo

WORDS = ["[PAD]", *(f"w{number}" for number in range(1, 64))]
SEQUENCES = [" ".join(WORDS[1 + (7 * i + 3 * j) % 63] for j in range(12)) for i in range(6)]


def tokenizer():
    """A word for each row of the embeddings of the zoo."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")


def kind_of(name):
    if name == "t5":
        return SEQ2SEQ
    return CLASSIFIER if name in zoo.CLASSIFIERS else CAUSAL


def sharpened(model):
    """The model with larger weights: predictions of random ones are almost uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model


def loaded(model, kind=CAUSAL):
    return Loaded(Checkpoint(Path(), kind, 0, "tiny"), model, tokenizer())


def zoo_baseline(name):
    return loaded(sharpened(zoo.make(name)), kind_of(name))


def data(kind=CAUSAL):
    make = (lambda text, i: Prompt(text, text, i)) if kind == SEQ2SEQ else Text
    items = (make(text, i) for i, text in enumerate(SEQUENCES))
    return DataSet("texts", tuple(items))


def changed(model, name, parameter="weight", seed=0, size=0.5):
    """A copy in which one parameter is disturbed by ``size`` of its norm."""
    candidate = copy.deepcopy(model)
    tensor = candidate.get_submodule(name).get_parameter(parameter)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(tensor.shape, generator=generator)
    with torch.no_grad():
        tensor += size * noise * tensor.norm() / noise.norm() + 0.1 * (tensor.norm() == 0) * noise
    return candidate
