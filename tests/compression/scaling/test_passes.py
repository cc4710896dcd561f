"""Pairs that are found block by block are those that are found with passes of the whole model."""

import pytest
import torch

from compression_gates.compression.model.capture import without_cache
from compression_gates.compression.model.layers import all_layers, backbone_layers
from compression_gates.compression.model.tracing import probe_batch
from compression_gates.compression.scaling import passes
from compression_gates.compression.scaling.pairs import find_pairs
from compression_gates.compression.scaling.passes import Passes
from tests.compression import zoo

SHARED = ("albert",)
"""Models that use a block several times, so that it cannot run on its own."""


def found(model):
    return [
        (str(pair), reason, pair.producer.offset, pair.channels)
        for pair, reason in find_pairs(model, backbone_layers(model))
    ]


CASES = [
    pytest.param(
        name,
        dtype,
        marks=[]
        if (dtype == torch.float32 and name not in zoo.SIMILAR) or name in ("llama", "albert")
        else pytest.mark.full,
    )
    for name in zoo.CONFIGS
    for dtype in (torch.float32, torch.float64, torch.bfloat16)
]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_block_by_block_equals_the_whole_model(random_model, monkeypatch, name, dtype):
    model = random_model(name).to(dtype)
    by_block = found(model)
    monkeypatch.setattr(passes, "is_replayable", lambda *_: False)
    whole = found(model)
    assert [pair[:3] for pair in by_block] == [pair[:3] for pair in whole]
    for (*_, channels), (*_, expected) in zip(by_block, whole, strict=True):
        assert channels.keys() == expected.keys()
        assert all(torch.equal(channels[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", zoo.CONFIGS)
def test_blocks_run_on_their_own_unless_they_are_shared(random_model, name):
    model = random_model(name)
    with torch.no_grad(), without_cache(model):
        outputs = Passes(model, all_layers(model), probe_batch(model)).outputs
    assert bool(outputs) == (name not in SHARED)


def test_a_pass_runs_only_the_blocks_of_interest(random_model):
    model = random_model("llama")
    with torch.no_grad(), without_cache(model):
        kept = Passes(model, all_layers(model), probe_batch(model))
        calls = []
        for number, block in enumerate(model.model.layers):
            block.mlp.register_forward_hook(lambda *_, number=number: calls.append(number))
        name, output = next(kept.blocks_from("model.layers.1"))
    assert calls == [1]
    assert torch.equal(output, kept.outputs[name])
    assert kept.block_of("model.layers.1.mlp.up_proj") == name == "model.layers.1"
    assert kept.block_of("model.norm") is None
