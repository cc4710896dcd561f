"""Damaged and forged checkpoints: configurations, indices, headers, tokenizers, templates and the
project's own format."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from compression_gates.evals.bench import Bench
from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.checkpoints.readable import check_readable
from compression_gates.evals.data.items import DataSet, Text
from compression_gates.evals.store.store import Store
from compression_gates.fixtures.suite.own_formats import OWN_FORMATS
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end.foreign import sharded
from tests.fuzz.mutations import mutated_bytes, mutated_json, mutated_json_file
from tests.processes import result_of

Mutate = Callable[[Random, bytes], bytes]
TEXT = "The soup was good, and the cook was kind."
TASKS = {"text": DataSet("texts", (Text(TEXT, 0), Text(TEXT, 1)))}
OWN = """
[data.passages]
source = "passages"
count = 2

[[suite]]
kind = "causal"
baselines = ["llama-tiny"]
recipes = ["rtn-int4,symmetric=false"]
text = "passages"

[suite.gates]
js_divergence = 0.05
"""


def mutated_header(rng: Random, content: bytes) -> bytes:
    """A safetensors file with another header."""
    (size,) = struct.unpack("<Q", content[:8])
    header, body = content[8 : 8 + size], content[8 + size :]
    if rng.random() < 0.3:
        return mutated_bytes(rng, content[: 8 + size]) + body
    changed = json.dumps(mutated_json(rng, json.loads(header))).encode()
    return struct.pack("<Q", len(changed)) + changed + body


def mutated_template(rng: Random, content: bytes) -> bytes:
    """A chat template with another part, or damaged."""
    parts = (b"{{ x }}", b"{{ 1/0 }}", b"{% for i in range(99) %}x{% endfor %}", b"{%", b"{{", b"",
             b"{# x #}", b"{{ messages[9].content }}", b"{{ raise_exception('\x1b[31m') }}",
             b"{{ ''.__class__ }}")  # fmt: skip
    if rng.random() < 0.5:
        return mutated_bytes(rng, content)
    place = rng.randrange(len(content))
    return content[:place] + rng.choice(parts) + content[place:]


class Candidates:
    """Judges candidates that are their baseline but for one file.

    Args:
        baseline: a checkpoint.
        name: of the file.
        mutate: gives another content.
        folder: for candidates and a store.
    """

    def __init__(self, baseline: Path, name: str, mutate: Mutate, folder: Path):
        self.before, self.mutate = open_checkpoint(baseline), mutate
        self.folder = folder / "candidate"
        shutil.copytree(baseline, self.folder)
        self.file = self.folder / name
        self.content = self.file.read_bytes()
        self.bench = Bench(
            Store(folder / "store"),
            formats=OWN_FORMATS,
        )
        self.bench.scores(self.before, TASKS)
        self.judge()

    def __call__(self, rng: Random) -> None:
        self.file.write_bytes(self.mutate(rng, self.content))
        self.judge()

    def judge(self) -> None:
        """Scores a candidate also where the comparison refuses it: what loads it is tried too."""
        candidate = open_checkpoint(self.folder)
        check_readable(candidate)
        try:
            self.bench.compare(self.before, candidate, TASKS)
        finally:
            self.bench.scores(candidate, TASKS, self.before)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "shards"
    return result_of(sharded, MODELS / "llama-tiny", folder)


@pytest.fixture(scope="module")
def own_format(tmp_path_factory):
    """A checkpoint in the project's own format."""
    return result_of(saved_in_own_format, tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def with_layer_types(tmp_path_factory):
    """A checkpoint whose configuration lists the type of each layer, with experts."""
    return result_of(saved_with_layer_types, tmp_path_factory.mktemp("layers") / "experts")


def saved_with_layer_types(folder: Path) -> Path:
    import torch
    from transformers import AutoTokenizer, Qwen2MoeConfig, Qwen2MoeForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(MODELS / "llama-tiny")
    torch.manual_seed(0)
    config = Qwen2MoeConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
        shared_expert_intermediate_size=8, use_sliding_window=True, max_window_layers=1,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    Qwen2MoeForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def saved_in_own_format(folder: Path) -> Path:
    from compression_gates.fixtures.suite.lab import Lab
    from compression_gates.fixtures.suite.matrix import candidates
    from compression_gates.fixtures.suite.profile import read_profile

    file = folder / "own.toml"
    file.write_text(OWN)
    profile = read_profile(str(file))
    lab = Lab(
        profile,
        Bench(
            Store(folder / "store"),
            formats=OWN_FORMATS,
        ),
    )
    return lab.checkpoint(candidates(profile)[0]).path


@pytest.mark.parametrize(
    ("name", "mutate", "short", "share"),
    [
        ("config.json", mutated_json_file, 10, 0.05),
        ("generation_config.json", mutated_json_file, 5, 0.2),
        ("model.safetensors", mutated_header, 5, 0),
        ("tokenizer.json", mutated_json_file, 8, 0.1),
        ("tokenizer_config.json", mutated_json_file, 5, 0.2),
        ("chat_template.jinja", mutated_template, 5, 0),
    ],
)
def test_files(each, tmp_path, name, mutate, short, share):
    each(short, Candidates, MODELS / "llama-tiny", name, mutate, tmp_path, share=share)


def test_layer_types(each, tmp_path, with_layer_types):
    each(10, Candidates, with_layer_types, "config.json", mutated_json_file, tmp_path, share=0.05)


def test_indices(each, tmp_path, shards):
    name = "model.safetensors.index.json"
    each(6, Candidates, shards, name, mutated_json_file, tmp_path, share=0)


def mutated_own(rng: Random, content: bytes) -> bytes:
    """A configuration that describes its stored weights otherwise."""
    described = json.loads(content)
    part = described["quantization_config"]
    if rng.random() < 0.5:
        part["weights"] = mutated_json(rng, part["weights"])
    else:
        described["quantization_config"] = mutated_json(rng, part)
    return json.dumps(described).encode()


def test_own_formats(each, tmp_path, own_format):
    each(10, Candidates, own_format, "config.json", mutated_own, tmp_path, share=0)


def test_own_tensors(each, tmp_path, own_format):
    each(6, Candidates, own_format, "model.safetensors", mutated_header, tmp_path, share=0)
