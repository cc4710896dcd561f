"""Calibration, solvers and scoring on one GPU, as ratios to bare forward passes.

The model has the shape of LLaMA-2-7B, in bfloat16, with 8 of its 32 layers and random weights.
Calibration is on 64 texts of 2048 tokens. A run takes less than eight minutes on an H100. It exits
with 1 if a limit is exceeded or there is no GPU.

    python tests/benchmarks/gpu.py

``--small`` runs the same code on a tiny model on the CPU. Its numbers have no meaning, and no limit
applies to them.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from compression_gates.compression.apply import compress
from compression_gates.compression.calibration.hessian import decreasing_diagonal, inverse_factor
from compression_gates.compression.kernels import usable
from compression_gates.compression.pruning import sparsegpt as pruning
from compression_gates.compression.pruning.patterns import NofM, Unstructured
from compression_gates.compression.quantization import gptq as quantization
from compression_gates.compression.quantization.grids import Uniform
from compression_gates.compression.recipe import Recipe
from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.data.items import DataSet, Text
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.protocols import TextProtocol
from compression_gates.evals.scoring.text import score_text
from compression_gates.fixtures.suite.datasets import data_set
from compression_gates.fixtures.suite.sources import DataSource
from compression_gates.fixtures.world.shipped import MODELS


@dataclass(frozen=True)
class Size:
    """What is measured.

    Attributes:
        hidden, intermediate, layers, heads, vocabulary: the shape of the model.
        texts, length, batch: number of calibration texts, their tokens, and texts of a batch.
        group: group size of GPTQ.
        scored: number of windows that are scored.
    """

    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    hidden: int = 4096
    intermediate: int = 11008
    layers: int = 8
    heads: int = 32
    vocabulary: int = 32000
    texts: int = 64
    length: int = 2048
    batch: int = 4
    group: int = 128
    scored: int = 32


SMALL = Size("cpu", torch.float32, 64, 96, 2, 4, 2048, 4, 32, 2, 32, 4)
RECIPES = {"wanda-50": 1.5, "sparsegpt-50": 5.0, "gptq-int4,group={group}": 5.0}
"""The largest cost of each recipe, in bare passes through the layers."""
SCORING = 1.10
"""The largest cost of scoring two models side by side, in bare passes of both."""
SOLVERS = {
    "sparsegpt-50": lambda w, h, u, group: pruning.sparsegpt(w, h, Unstructured(0.5), upper=u),
    "sparsegpt-2:4": lambda w, h, u, group: pruning.sparsegpt(w, h, NofM(2, 4), upper=u),
    "gptq-int4": lambda w, h, u, group: quantization.gptq(w, h, Uniform(4), upper=u),
    "gptq-int4,group": lambda w, h, u, group: quantization.gptq(w, h, Uniform(4), group, upper=u),
    "gptq-int4,act_order": lambda w, h, u, group: quantization.gptq(
        w, h, Uniform(4), act_order=True, upper=u
    ),
}


def timed(size: Size, function: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds and the peak memory in GiB of a call."""
    if size.device != "cuda":
        start = time.process_time()
        function()
        return time.process_time() - start, float("nan")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() / 2**30


def make_model(size: Size) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.hidden, num_hidden_layers=size.layers,
        intermediate_size=size.intermediate, num_attention_heads=size.heads,
        max_position_embeddings=size.length,
    )  # fmt: skip
    with torch.device(size.device):
        return LlamaForCausalLM(config).to(size.dtype).eval()


def compare_kernels(size: Size) -> list[str]:
    """Print how much faster the kernels are on one layer."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2 * size.hidden, size.hidden, generator=generator).to(size.device)
    weight = torch.randn(size.hidden, size.hidden, generator=generator).to(size.device)
    hessian = inputs.T @ inputs / size.hidden
    # Columns are then already in the order of decreasing diagonal elements.
    order = decreasing_diagonal(hessian)
    hessian = hessian[order][:, order]
    upper = inverse_factor(hessian)
    seconds, _ = timed(size, lambda: inverse_factor(hessian))
    print(f"\nOne layer, {size.hidden} x {size.hidden}")
    print(f"{'inverse factor':28}{seconds * 1e3:10.1f} ms")
    print(f"{'solver':28}{'without':>10}   {'kernel':>10}   {'speedup':>8}")
    for name, solve in SOLVERS.items():
        call = lambda solve=solve: solve(weight, hessian, upper, size.group)  # noqa: E731
        with (
            mock.patch.object(pruning, "usable", return_value=False),
            mock.patch.object(quantization, "usable", return_value=False),
        ):
            plain, _ = timed(size, call)
        if not usable(weight.device):
            print(f"{name:28}{plain * 1e3:7.1f} ms   no Triton on this device")
            continue
        call()  # compiles the kernel
        kernel, _ = timed(size, call)
        print(f"{name:28}{plain * 1e3:7.1f} ms   {kernel * 1e3:7.1f} ms   {plain / kernel:7.1f}x")
    if usable(weight.device):
        return []
    return ["Triton cannot be imported"]


def compare_calibration(size: Size, model: LlamaForCausalLM) -> list[str]:
    """Print the cost of recipes, and return those whose limit is exceeded."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(size.vocabulary, (size.texts, size.length), generator=generator)
    batches = [
        {"input_ids": x, "attention_mask": torch.ones_like(x)}
        for x in ids.to(size.device).split(size.batch)
    ]

    @torch.no_grad()
    def bare() -> None:
        for batch in batches:
            model.model(input_ids=batch["input_ids"], use_cache=False)

    bare()
    seconds, memory = timed(size, bare)
    print(f"\n{size.layers} layers, {size.texts} x {size.length} tokens")
    print(f"{'bare pass':28}{seconds:8.2f} s{'':16}{memory:6.1f} GiB")
    exceeded = []
    for text, limit in RECIPES.items():
        recipe = Recipe.parse(text.format(group=size.group))
        compressed = copy.deepcopy(model)
        spent, memory = timed(size, lambda m=compressed, r=recipe: compress(m, r, batches))
        del compressed
        ratio = spent / seconds
        print(f"{recipe.name:28}{spent:8.2f} s{ratio:7.2f} (<= {limit})  {memory:6.1f} GiB")
        if ratio > limit:
            exceeded.append(f"{recipe.name}: {ratio:.2f} bare passes, limit {limit}")
    return exceeded


def compare_scoring(size: Size, model: LlamaForCausalLM) -> list[str]:
    """Print the cost of scoring a candidate beside its baseline."""
    checkpoint = open_checkpoint(MODELS / "llama-tiny")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    passages = data_set("passages", DataSource("passages", count=400), "causal").items
    document = " ".join(item.text for item in passages)
    ids = tokenizer(document, verbose=False).input_ids
    needed = size.scored * size.length
    text = tokenizer.decode((ids * (needed // len(ids) + 1))[:needed], skip_special_tokens=True)
    data = DataSet("text", (Text(text, 0),))
    ids = torch.tensor(tokenizer(text, verbose=False).input_ids)[:needed].to(size.device)
    windows = ids[: len(ids) // size.length * size.length].view(-1, size.length)
    baseline, candidate = (Loaded(checkpoint, m, tokenizer) for m in (model, copy.deepcopy(model)))
    protocol = TextProtocol(context=size.length, batch_tokens=size.batch * size.length)

    @torch.no_grad()
    def bare() -> None:
        for batch in windows.split(size.batch):
            for side in (baseline, candidate):
                side.model(input_ids=batch, use_cache=False)

    bare()
    seconds, _ = timed(size, bare)
    score_text(candidate, data, protocol, reference=baseline)
    spent, memory = timed(size, lambda: score_text(candidate, data, protocol, reference=baseline))
    ratio = spent / seconds
    print(f"\nScoring two models on {windows.numel():,} tokens")
    print(f"{'bare passes of both':28}{seconds:8.2f} s")
    print(f"{'scoring':28}{spent:8.2f} s{ratio:7.2f} (<= {SCORING})  {memory:6.1f} GiB")
    return [f"scoring: {ratio:.2f} bare passes, limit {SCORING}"] if ratio > SCORING else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a tiny model on the CPU, no limits")
    options = parser.parse_args()
    size = SMALL if options.small else Size()
    if size.device == "cuda" and not torch.cuda.is_available():
        sys.exit("not run: there is no CUDA device; --small runs the same code on the CPU")
    name = torch.cuda.get_device_name() if size.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {size.dtype}")
    exceeded = compare_kernels(size)
    model = make_model(size)
    exceeded += compare_calibration(size, model) + compare_scoring(size, model)
    if exceeded and not options.small:
        sys.exit("exceeded:\n" + "\n".join(exceeded))


if __name__ == "__main__":
    main()
