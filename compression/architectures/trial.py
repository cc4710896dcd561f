"""One recipe on one small random model: compressed, saved, loaded again, and held beside the
method that takes no look at any input."""

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
from compression_gates.compression.checkpoint.saving import save
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.low_rank.factors import LowRank
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.gradients import is_causal, is_seq2seq
from compression_gates.compression.model.layers import all_layers, selected_layers
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.model.texts import padded
from compression_gates.compression.recipe import Recipe

NAIVE = {"gptq": "rtn-int4", "lsq": "rtn-int4", "wanda": "magnitude-50,scope=row",
         "sparsegpt": "magnitude-50", "svdllm": "svd-50"}  # fmt: skip
"""What a method that calibrates has to beat: its counterpart without data, as its recipe in
:func:`recipes`."""
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
        notes: of the recipe.
    """

    refused: str = ""
    form: str = ""
    error: float = float("nan")
    naive: float = float("nan")
    notes: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether it leaves more error than its counterpart."""
        return self.error > self.naive


def attempt(architecture: Architecture, text: str) -> Outcome:
    """Applies a recipe to the architecture's model.

    Raises:
        AssertionError: the recipe was refused after something of the model had been changed.
    """
    recipe = Recipe.parse(text)
    with quiet():
        model = architecture.make()
        batches = calibration(model)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            result = compress(model, recipe, batches)
            with tempfile.TemporaryDirectory() as folder:
                form = save(result, tokenizer(), Path(folder, "checkpoint"))
        except CompressionError as error:
            after = model.state_dict()
            same = after.keys() == before.keys() and all(
                torch.equal(after[name], tensor) for name, tensor in before.items()
            )
            if not same:
                raise AssertionError(f"{text}: refused after a change: {error}") from error
            return Outcome(refused=str(error))
        naive = NAIVE.get(recipe.steps[0].method)
        if naive is None:
            return Outcome(form=form, notes=tuple(result.notes))
        other = architecture.make()
        compress(other, Recipe.parse(naive), batches)
        errors = output_errors(architecture.make(), recipe, batches, [result.model, other])
        return Outcome("", form, *errors, tuple(result.notes))


def output_errors(
    model: PreTrainedModel, recipe: Recipe, batches: list[Batch], others: list[PreTrainedModel]
) -> list[float]:
    """For each of ``others``, compressed from ``model``, the sum over layers of
    ``||(W - W') X||^2 / ||W X||^2`` over the inputs that each has in ``model``."""
    layers = selected_layers(model, recipe.steps[0])
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
    found = []
    for _ in range(BATCHES):
        rows = [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in LENGTHS]
        batch = padded([[*row, 2] for row in rows], 0)
        if is_seq2seq(model):
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        elif not is_causal(model):
            batch["labels"] = torch.arange(len(rows)) % 2
        found.append(batch)
    return found


def tokenizer() -> PreTrainedTokenizerFast:
    """Any that can be saved."""
    from tokenizers import Tokenizer, models

    words = {f"<{number}>": number for number in range(VOCABULARY)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "<0>")),
                                   pad_token="<0>")  # fmt: skip


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
