"""Compress a model with llm-compressor, in an environment of its own.

INTERPRETER tests/benchmarks/llm_compressor.py METHOD MODEL IDS OUTPUT

MODEL and OUTPUT are directories, IDS a file of token ids ``(texts, length)`` that torch.load reads.
OUTPUT gets the weights, dense and dequantized. Prints the version and the CPU time as JSON.
"""

import json
import sys
import time
from importlib.metadata import version

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.quantization import GPTQModifier
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

BATCH = 16
LAYERS = {"targets": ["Linear"], "ignore": ["lm_head"]}
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
MODIFIERS = {
    "wanda": lambda: WandaPruningModifier(sparsity=0.5, **LAYERS),
    "sparsegpt": lambda: SparseGPTModifier(sparsity=0.5, **LAYERS),
    "gptq": lambda: GPTQModifier(
        config_groups={"group_0": {"targets": ["Linear"], "weights": WEIGHTS}}, ignore=["lm_head"]
    ),
}


def main(method: str, directory: str, ids_file: str, output: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    texts = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}
             for ids in torch.load(ids_file)]  # fmt: skip
    start = time.process_time()
    oneshot(
        model=model,
        # Required, but not used for a DataLoader.
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a"))
        ),
        dataset=DataLoader(texts, batch_size=BATCH),
        recipe=[MODIFIERS[method]()],
        num_calibration_samples=len(texts),
        batch_size=BATCH,
        pipeline="sequential",
    )
    seconds = time.process_time() - start
    names = {f"{name}.weight" for name, module in model.named_modules()
             if isinstance(module, torch.nn.Linear)}  # fmt: skip
    weights = {n: t.contiguous().clone() for n, t in model.state_dict().items() if n in names}
    save_file(weights, output)
    print(json.dumps({"version": version("llmcompressor"), "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
