"""What calibration costs, as a ratio to one bare pass over the same batches.

pytest tests/benchmarks/test_calibration.py -s
"""

import time
from functools import cache

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from compression_gates.compression.apply import compress
from compression_gates.compression.recipe import Recipe

TEXTS, LENGTH, BATCH = 32, 512, 16
VOCABULARY = 2048
PASSES = 2.3
"""Limit for wanda-50: each block runs twice, and its masks are computed."""
DOUBLED = 2.3
"""Limit for twice the number of layers."""


def llama(layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1376, num_hidden_layers=layers,
        num_attention_heads=8, max_position_embeddings=LENGTH,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@cache
def batches():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (TEXTS, LENGTH), generator=generator)
    return [{"input_ids": x, "attention_mask": torch.ones_like(x)} for x in ids.split(BATCH)]


def bare(model) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        for batch in batches():
            model(**batch, use_cache=False)
    return time.perf_counter() - start


def cost(model, text: str) -> float:
    start = time.perf_counter()
    compress(model, Recipe.parse(text), batches())
    return time.perf_counter() - start


@pytest.mark.parametrize("text", ["wanda-50", "sparsegpt-50", "gptq-int4,group=32"])
def test_cost_over_a_bare_pass(benchmark, text):
    model = llama(8)
    bare(model)
    passes = [bare(model)]
    time_ = benchmark.pedantic(cost, (model, text), rounds=1)
    passes.append(bare(model))
    ratio = time_ / min(passes)
    benchmark.extra_info["ratio to a bare pass"] = round(ratio, 2)
    print(f"\n{text}: {ratio:.2f} x a bare pass")
    if text == "wanda-50":
        assert ratio <= PASSES


def test_cost_is_linear_in_the_number_of_layers(benchmark):
    cost(llama(2), "wanda-50")
    single = cost(llama(8), "wanda-50")
    double = benchmark.pedantic(cost, (llama(16), "wanda-50"), rounds=1)
    benchmark.extra_info["16 layers over 8"] = round(double / single, 2)
    print(f"\n16 layers: {double / single:.2f} x 8 layers")
    assert double <= DOUBLED * single
