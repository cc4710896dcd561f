"""Apply one recipe to one small random model, and compare it with a method without data."""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import VOCABULARY, Architecture
from compression_gates.compression.calibration.driver import collect
from compression_gates.compression.calibration.hessian import output_error
from compression_gates.compression.catalogue import METHODS, SCALING
from compression_gates.compression.checkpoint.saving import save
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.low_rank.factors import LowRank
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.gradients import is_causal
from compression_gates.compression.model.layers import all_layers
from compression_gates.compression.model.pretrained import load
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.model.texts import batches_of
from compression_gates.compression.model.tracing import select_reached
from compression_gates.compression.recipe import Recipe, examples

NAIVE = {"gptq": "rtn-int4", "lsq": "rtn-int4", "awq": "rtn-int4", "svdllm": "svd-50",
         "wanda": "magnitude-50,scope=row", "sparsegpt": "magnitude-50"}  # fmt: skip
"""The recipe without data that each calibrated method is compared with. That of awq also quantizes
the model that awq has scaled."""
SLACK = {"awq": 0.01}
"""Allowed increase of the relative error. awq minimizes the summed error of pairs of layers, while
the comparison uses the relative error of each layer."""
WORDS = (*(f"<{number}>" for number in range(VOCABULARY - 1)), "<|endoftext|>")
"""The last token is one that the tokenizer of Qwen2 adds if it is missing."""
LENGTHS = (24, 19, 7)
BATCHES = 2


@dataclass(frozen=True)
class Outcome:
    """Result of applying a recipe.

    Attributes:
        refused: why the recipe was rejected; empty if it was not.
        form: format of the checkpoint.
        error: output error of all layers on the calibration data; NaN if it was not measured.
        naive: output error of the method without data.
        slack: allowed increase over ``naive``, as a share of it.
        notes: notes of the recipe.
    """

    refused: str = ""
    form: str = ""
    error: float = float("nan")
    naive: float = float("nan")
    slack: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether the error is larger than without data."""
        return self.error > self.naive * (1 + self.slack)


def attempt(architecture: Architecture, text: str) -> Outcome:
    """Apply a recipe to the model of an architecture.

    Raises:
        AssertionError: the recipe was rejected after the model had been changed.
    """
    recipe = Recipe.parse(text)
    with quiet(), tempfile.TemporaryDirectory() as baseline:
        architecture.make().save_pretrained(baseline)
        tokenizer().save_pretrained(baseline)
        model, words = load(baseline, "the model")
        batches = calibration(model)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            result = compress(model, recipe, batches)
            with tempfile.TemporaryDirectory() as folder:
                form = save(result, words, Path(folder, "checkpoint"))
        except CompressionError as error:
            after = model.state_dict()
            same = after.keys() == before.keys() and all(
                torch.equal(after[name], tensor) for name, tensor in before.items()
            )
            if not same:
                raise AssertionError(f"{text}: rejected after a change: {error}") from error
            return Outcome(refused=str(error))
        method, notes = recipe.steps[0].method, tuple(result.notes)
        if method not in NAIVE:
            return Outcome(form=form, notes=notes)
        naive = Recipe.parse(NAIVE[method])
        original, other = architecture.make(), architecture.make()
        compress(other, naive, batches)
        if recipe.steps[0].entry.family == SCALING:
            after = copy.deepcopy(result.model)
            compress(after, naive, batches)
            errors = [
                *output_errors(result.model, recipe, batches, [after]),
                *output_errors(original, recipe, batches, [other]),
            ]
        else:
            errors = output_errors(original, recipe, batches, [result.model, other])
        return Outcome("", form, *errors, SLACK.get(method, 0.0), notes)


def output_errors(
    model: PreTrainedModel, recipe: Recipe, batches: list[Batch], others: list[PreTrainedModel]
) -> list[float]:
    """Return ``||(W - W') X||^2 / ||W X||^2``, summed over layers, for each of ``others``.

    ``W'`` are the weights of a compressed model; ``X`` are the inputs in ``model``.
    """
    layers, _ = select_reached(model, recipe.steps[0])
    errors = [0.0] * len(others)
    layers_after = [all_layers(other) for other in others]
    for name, statistics in collect(model, layers, batches, with_products=True).items():
        if statistics.tokens:
            weight, products = layers[name].weight.detach(), statistics.products
            total = output_error(weight, products).sum()
            for number, other in enumerate(others):
                layer = layers_after[number].get(name)
                after = _product(other, name) if layer is None else layer.weight
                error = output_error(weight - after.detach(), products).sum()
                errors[number] += float(error / total)
    return errors


def _product(model: PreTrainedModel, name: str) -> Tensor:
    factors = model.get_submodule(name)
    assert isinstance(factors, LowRank)
    return factors.second.weight @ factors.first.weight


def calibration(model: PreTrainedModel) -> list[Batch]:
    """Return batches of random texts of several lengths, each with an end-of-text token.

    They have labels unless the model is causal.
    """
    generator = torch.Generator().manual_seed(0)
    texts = []
    for length in LENGTHS * BATCHES:
        tokens = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        texts.append(" ".join(WORDS[token] for token in (*tokens, 2)))
    step = Recipe.parse("wanda-50").steps[0]
    labels = None if is_causal(model) else [index % 2 for index in range(len(LENGTHS))] * BATCHES
    return batches_of(step, model, tokenizer(), texts, labels, size=len(LENGTHS))


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word of :data:`WORDS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, WORDS[0]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=WORDS[0])


def recipes() -> dict[str, str]:
    """Return a recipe for each method of the catalogue, by its name."""
    settings = {"lsq": ",iterations=20", "movement": ",steps=2", "distill": ",steps=2"}
    steps = {name: examples(m)[0] if m.amounts else name for name, m in METHODS.items()}
    by_name = {name: f"{step}{settings.get(name, '')}" for name, step in steps.items()}
    return by_name | {"bitmask": "magnitude-50+bitmask"}
