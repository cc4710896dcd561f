"""On the shipped models, methods rank by the error ``tr(D H D^T)`` as in the papers.

Every method starts from the same dense weights and statistics.
"""

from functools import cache

import pytest
import torch

from compression_gates.compression.calibration.driver import collect
from compression_gates.compression.calibration.hessian import output_error
from compression_gates.compression.low_rank.svd import factorize
from compression_gates.compression.model.layers import backbone_layers
from compression_gates.compression.model.texts import batches_of
from compression_gates.compression.pruning.magnitude import magnitude_scores
from compression_gates.compression.pruning.patterns import NofM, Unstructured, prune_mask
from compression_gates.compression.pruning.sparsegpt import sparsegpt
from compression_gates.compression.pruning.wanda import wanda
from compression_gates.compression.quantization.gptq import gptq
from compression_gates.compression.quantization.grids import Uniform, round_to_nearest
from compression_gates.compression.quantization.lsq import learned_steps
from compression_gates.compression.recipe import Recipe
from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import CAUSAL, MODELS, NAMES

PATTERNS = [Unstructured(0.5), NofM(2, 4), NofM(4, 8)]


def magnitude(weight, pattern):
    """``weight`` with its smallest entries set to zero."""
    return weight.masked_fill(prune_mask(magnitude_scores(weight), pattern, per_row=False), 0.0)


@cache
def calibrated(name):
    """Return weight and statistics of every layer of a shipped model."""
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    causal = name in CAUSAL
    auto = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    model = auto.from_pretrained(MODELS / name).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    document = corpus.passage if causal else corpus.review
    texts = [document("calibration", index).text for index in range(24 if causal else 96)]
    step = Recipe.parse("wanda-50").steps[0]
    layers = backbone_layers(model)
    seen = collect(model, layers, batches_of(step, model, tokenizer, texts), with_products=True)
    return {key: (layer.weight.detach(), seen[key]) for key, layer in layers.items()}


def worse(name, better, other, diagonal=False):
    """Return the layers where ``better`` has the larger error, with the ratio of errors."""
    ratios = {}
    with torch.no_grad():
        for key, (weight, seen) in calibrated(name).items():
            hessian = torch.diag(seen.hessian.diagonal()) if diagonal else seen.hessian
            errors = [
                float(output_error(method(weight, seen) - weight, hessian).sum())
                for method in (better, other)
            ]
            if errors[0] > errors[1]:
                ratios[key] = errors[0] / errors[1]
    return ratios


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_sparsegpt_beats_wanda_in_every_layer(name, pattern):
    assert not worse(
        name,
        lambda weight, seen: sparsegpt(weight, seen.hessian, pattern),
        lambda weight, seen: wanda(weight, seen.norm, pattern),
    )


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_wanda_beats_row_wise_magnitude_in_every_layer(name, pattern):
    """Compare the error that Wanda minimizes, which ignores products of different features.

    Magnitude pruning of a whole matrix can keep more weights in important rows. At 50 %, 13 of 28
    layers of llama-tiny have a smaller error under magnitude (by up to 16 %), and none if both
    methods rank weights within rows or both within the matrix (Sun et al. 2024, section 4.1, table
    7). With the products, one layer with correlated inputs is 0.2 % worse under Wanda.
    """

    def by_row(weight, seen):
        return weight.masked_fill(prune_mask(weight.abs(), pattern, per_row=True), 0.0)

    assert not worse(
        name, lambda weight, seen: wanda(weight, seen.norm, pattern), by_row, diagonal=True
    )


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_wanda_beats_magnitude_over_all_layers(name, pattern):
    totals = [0.0, 0.0]
    with torch.no_grad():
        for weight, seen in calibrated(name).values():
            for index, after in enumerate(
                (wanda(weight, seen.norm, pattern), magnitude(weight, pattern))
            ):
                totals[index] += float(output_error(after - weight, seen.hessian).sum())
    assert totals[0] < totals[1]


def by_bits(*bits):
    """Return a model and a number of bits for each test: every number for the model that
    generates text, and the smallest for the encoders, which need --full for the others."""
    return [
        pytest.param(name, number, marks=[] if name in CAUSAL or number == 2 else pytest.mark.full)
        for name in NAMES
        for number in bits
    ]


@pytest.mark.parametrize("act_order", [False, True], ids=["in-order", "act-order"])
@pytest.mark.parametrize(("name", "bits"), by_bits(2, 3, 4, 8))
def test_gptq_beats_round_to_nearest_in_every_layer(name, bits, act_order):
    grid = Uniform(bits)
    assert not worse(
        name,
        lambda weight, seen: gptq(
            weight, seen.hessian, grid, act_order=act_order
        ).dequantized(),
        lambda weight, seen: round_to_nearest(weight, grid).dequantized(),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "bits"), by_bits(2, 3, 4))
def test_learned_steps_beat_uniform_ones_in_every_layer(name, bits):
    assert not worse(
        name,
        lambda weight, seen: learned_steps(
            weight, seen.hessian, bits, iterations=50
        ).dequantized(),
        lambda weight, seen: round_to_nearest(weight, Uniform(bits)).dequantized(),
    )  # fmt: skip


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("name", NAMES)
def test_whitened_svd_beats_plain_svd_in_every_layer(name, ratio):
    def product(factors):
        first, second = factors
        return second @ first

    assert not worse(
        name,
        lambda weight, seen: product(factorize(weight, ratio=ratio, products=seen.products)),
        lambda weight, seen: product(factorize(weight, ratio=ratio)),
    )
