"""Saved checkpoints load with ``from_pretrained`` as the compressed model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from compression_gates.compression.apply import compress
from compression_gates.compression.checkpoint.saving import save
from compression_gates.compression.recipe import Recipe
from compression_gates.fixtures.world import tokenizers as vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.causal(64)


@pytest.mark.parametrize("text", ["wanda-50", "sparsegpt-2:4", "magnitude-100"])
def test_pruned_weights_are_bit_identical(tiny_llama, batches, tokenizer, tmp_path, text):
    save(compress(tiny_llama, Recipe.parse(text), batches), tokenizer, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, tensor in tiny_llama.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize("kind", ["llama", "bert", "albert", "roberta"])
def test_packed_weights_are_exact_and_take_one_byte(
    tiny_llama, tiny_encoder, batches, tokenizer, tmp_path, kind
):
    model = tiny_llama if kind == "llama" else tiny_encoder(kind)
    auto = AutoModelForCausalLM if kind == "llama" else AutoModelForSequenceClassification
    model.save_pretrained(tmp_path / "dense")
    result = compress(model, Recipe.parse("rtn-int8"))
    save(result, tokenizer, tmp_path / "packed")
    loaded, report = auto.from_pretrained(tmp_path / "packed", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        assert torch.equal(loaded(**batches[0]).logits, model(**batches[0]).logits)
    for name, quantized in result.quantized.items():
        assert torch.equal(loaded.get_submodule(name).weight, quantized.dequantized())
    dense, packed = (
        (tmp_path / name / "model.safetensors").stat().st_size for name in ("dense", "packed")
    )
    weights = sum(quantized.codes.numel() for quantized in result.quantized.values())
    scales = sum(quantized.scales.numel() for quantized in result.quantized.values())
    saved = 3 * weights - 4 * scales
    assert dense - packed == pytest.approx(saved, abs=400 * len(result.quantized))


def test_sharded_checkpoints_are_packed(tiny_llama, batches, tokenizer, tmp_path, monkeypatch):
    whole = tiny_llama.save_pretrained
    monkeypatch.setattr(
        tiny_llama, "save_pretrained", lambda d, **kw: whole(d, max_shard_size="20KB")
    )
    save(compress(tiny_llama, Recipe.parse("rtn-int8")), tokenizer, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(loaded(**batches[0]).logits, tiny_llama(**batches[0]).logits)


def test_existing_directories_are_kept_and_failed_saves_removed(
    tiny_llama, tokenizer, tmp_path, monkeypatch
):
    result = compress(tiny_llama, Recipe.parse("rtn-int8"))
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="give a directory that does not"):
        save(result, tokenizer, tmp_path / "out")

    def full(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(tokenizer.__class__, "save_pretrained", full)
    with pytest.raises(OSError, match="disk full"):
        save(result, tokenizer, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
