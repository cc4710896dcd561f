"""One recipe on one small random model: compressed, saved, loaded again, and held beside the
method that takes no look at any input."""

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
from compression_gates.compression.catalogue import SCALING
from compression_gates.compression.checkpoint.saving import save
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.low_rank.factors import LowRank
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.gradients import is_causal
from compression_gates.compression.model.layers import all_layers
from compression_gates.compression.model.loading import load
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.model.texts import batches_of
from compression_gates.compression.model.tracing import select_reached
from compression_gates.compression.recipe import Recipe

NAIVE = {"gptq": "rtn-int4", "lsq": "rtn-int4", "awq": "rtn-int4", "svdllm": "svd-50",
         "wanda": "magnitude-50,scope=row", "sparsegpt": "magnitude-50"}  # fmt: skip
"""What a method that calibrates has to beat: its counterpart without data, as its recipe in
:func:`recipes`. That of awq is also what follows its scales."""
SLACK = {"awq": 0.01}
"""Share by which a method may leave more error. awq minimises the sum of a pair's errors while rows
are as they were, and what is compared is a share of each layer's output."""
WORDS = (*(f"<{number}>" for number in range(VOCABULARY - 1)), "<|endoftext|>")
"""The last one is a token that the tokenizer of Qwen2 adds where it is missing."""
LENGTHS = (24, 19, 7)
BATCHES = 2


@dataclass(frozen=True)
class Outcome:
    """What came of a recipe.

    Attributes:
        refused: the line that says why it cannot be carried out; empty where it can.
        form: the format of the checkpoint, which loads as it was made.
        error: output error of all its layers on the calibration data; NaN where none is known.
        naive: that of the counterpart.
        slack: share of it by which the error may be larger.
        notes: of the recipe.
    """

    refused: str = ""
    form: str = ""
    error: float = float("nan")
    naive: float = float("nan")
    slack: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether it leaves more error than its counterpart."""
        return self.error > self.naive * (1 + self.slack)


def attempt(architecture: Architecture, text: str) -> Outcome:
    """Applies a recipe to the architecture's model.

    Raises:
        AssertionError: the recipe was refused after something of the model had been changed.
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
                raise AssertionError(f"{text}: refused after a change: {error}") from error
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
    """For each of ``others``, compressed from ``model``, the sum over layers of
    ``||(W - W') X||^2 / ||W X||^2`` over the inputs that each has in ``model``."""
    layers, _ = select_reached(model, recipe.steps[0])
    found = [0.0] * len(others)
    known = [all_layers(other) for other in others]
    for name, seen in collect(model, layers, batches, with_products=True).items():
        if seen.tokens:
            weight, products = layers[name].weight.detach(), seen.products
            whole = output_error(weight, products).sum()
            for number, other in enumerate(others):
                own = known[number].get(name)
                after = _product(other, name) if own is None else own.weight
                error = output_error(weight - after.detach(), products).sum()
                found[number] += float(error / whole)
    return found


def _product(model: PreTrainedModel, name: str) -> Tensor:
    factors = model.get_submodule(name)
    assert isinstance(factors, LowRank)
    return factors.second.weight @ factors.first.weight


def calibration(model: PreTrainedModel) -> list[Batch]:
    """Batches of random tokens of several lengths, each with an end of text; with labels where the
    model decodes or classifies."""
    generator = torch.Generator().manual_seed(0)
    texts = []
    for length in LENGTHS * BATCHES:
        tokens = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        texts.append(" ".join(WORDS[token] for token in (*tokens, 2)))
    step = Recipe.parse("wanda-50").steps[0]
    labels = None if is_causal(model) else [index % 2 for index in range(len(LENGTHS))] * BATCHES
    return batches_of(step, model, tokenizer(), texts, labels, size=len(LENGTHS))


def tokenizer() -> PreTrainedTokenizerFast:
    """Of the vocabulary ``<0> <1> ...``, a token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, WORDS[0]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=WORDS[0])


def recipes() -> dict[str, str]:
    """A recipe for each method of the catalogue, by its name."""
    from compression_gates.compression.catalogue import METHODS

    amounts = {"bits": "int4", "sparsity": "50", "ratio": "50"}
    rest = {"lsq": ",iterations=20", "movement": ",steps=2", "distill": ",steps=2"}
    found = {}
    for name, method in METHODS.items():
        amount = next((f"-{amounts[key]}" for key in method.amounts if key in amounts), "")
        found[name] = f"{name}{amount}{rest.get(name, '')}"
    return found | {"bitmask": "magnitude-50+bitmask"}
