"""Contradictions between weight files are found from their headers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.checkpoints.compare import Sides
from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.checkpoints.weights import compare

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"
NAMES = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def sides(causal_checkpoint):
    """The folders of a baseline and of its copy."""
    base = causal_checkpoint("base").path
    return base, shutil.copytree(base, base.with_name("candidate"))


def comparison_of(base, candidate):
    comparison = compare(Sides(open_checkpoint(base), open_checkpoint(candidate), []))
    assert not comparison.not_compared
    assert all("\n" not in finding.text for finding in comparison.findings)
    return comparison


def edit(folder, change, file="model.safetensors"):
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, {"format": "pt"})


def flag(folder, tied):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))


def shard(folder):
    """Splits the weights into two files, and returns the map of the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {key: NAMES[place % 2] for place, key in enumerate(sorted(tensors))}
    for name in NAMES:
        save_file({k: tensors[k] for k in tensors if weight_map[k] == name}, folder / name)
    reindex(folder, weight_map)
    return weight_map


def reindex(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_a_copy_has_no_fault_whole_and_in_shards(sides):
    base, candidate = sides
    assert not comparison_of(base, candidate).findings
    shard(candidate)
    assert not comparison_of(base, candidate).findings


def test_an_index_that_names_what_no_file_holds(sides):
    base, candidate = sides
    weight_map = shard(candidate)
    reindex(candidate, {**weight_map, "model.extra.weight": NAMES[0]})
    texts = comparison_of(base, candidate).of(Severity.FAILED)
    assert texts == [f"{INDEX} names model.extra.weight, which no file holds"]


@pytest.mark.parametrize("start", ["./", ".//", "x/../"])
def test_an_index_that_names_its_files_another_way(sides, start):
    base, candidate = sides
    weight_map = shard(candidate)
    reindex(candidate, {name: start + file for name, file in weight_map.items()})
    (candidate / "x").mkdir()
    assert not comparison_of(base, candidate).findings


def test_an_index_that_leaves_tensors_out(sides):
    base, candidate = sides
    weight_map = shard(candidate)
    left = sorted(weight_map)[2:]
    reindex(candidate, {name: weight_map[name] for name in left})
    (text,) = comparison_of(base, candidate).of(Severity.FAILED)
    assert (
        text == f"{INDEX} does not name {', '.join(sorted(weight_map)[:2])}, which the files hold"
    )


def test_an_index_that_names_the_other_file(sides):
    base, candidate = sides
    weight_map = shard(candidate)
    name = sorted(weight_map)[0]
    reindex(candidate, {**weight_map, name: NAMES[1]})
    (text,) = comparison_of(base, candidate).of(Severity.FAILED)
    assert text == f"{INDEX} names another file than the one that holds {name}"


def test_a_tensor_in_two_files(sides):
    base, candidate = sides
    weight_map = shard(candidate)
    name = sorted(weight_map)[0]
    edit(candidate, lambda tensors: tensors.update({name: torch.zeros(2)}), NAMES[1])
    (text,) = comparison_of(base, candidate).of(Severity.REFUSED)
    assert text == f"{name} is both in {NAMES[0]} and in {NAMES[1]}"


@pytest.mark.parametrize("text", ["{", json.dumps({"weight_map": {"a": "gone.safetensors"}})])
def test_an_index_that_nothing_reads_is_noted(sides, text):
    base, candidate = sides
    (candidate / INDEX).write_text(text)
    (finding,) = comparison_of(base, candidate).findings
    assert finding.severity == Severity.NOTED
    assert INDEX in finding.text


def test_a_tie_flag_beside_an_output_layer_of_its_own(sides):
    base, candidate = sides
    edit(candidate, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] * 2}))
    flag(candidate, True)
    (text,) = comparison_of(base, candidate).of(Severity.FAILED)
    assert f"tie_word_embeddings = true, but {HEAD} and {EMBEDDING} in the file differ" in text


def test_a_tie_flag_beside_the_same_weights_is_fine(sides):
    base, candidate = sides
    edit(candidate, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    flag(candidate, True)
    assert not comparison_of(base, candidate).findings


def test_no_tie_flag_and_no_output_layer(sides):
    base, candidate = sides
    edit(candidate, lambda tensors: tensors.pop(HEAD, None))
    flag(candidate, False)
    (text,) = comparison_of(base, candidate).of(Severity.REFUSED)
    assert text == f"config.json sets tie_word_embeddings = false, but the file has no {HEAD}"


def test_a_fault_that_the_baseline_has_too_is_noted(sides):
    base, candidate = sides
    for side in sides:
        edit(side, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] * 2}))
        flag(side, True)
    (finding,) = comparison_of(base, candidate).findings
    assert finding.severity == Severity.NOTED
    assert finding.text.endswith("as for the baseline")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.safetensors", "old.gguf"])
def test_weights_that_are_not_read_are_noted(sides, name):
    base, candidate = sides
    shutil.copy(candidate / "model.safetensors", candidate / name)
    (finding,) = comparison_of(base, candidate).findings
    assert finding.severity == Severity.NOTED
    assert name in finding.text


def test_leftovers_of_training_are_no_weights(sides):
    base, candidate = sides
    (candidate / "training_args.bin").write_bytes(b"x")
    assert not comparison_of(base, candidate).findings


def test_another_fault_of_the_kind_that_the_baseline_has_is_not_excused(sides):
    base, candidate = sides
    weight_map = shard(base)
    first, second, *_ = weight_map
    for name in NAMES:
        shutil.copyfile(base / name, candidate / name)
    (candidate / "model.safetensors").unlink()
    reindex(base, {key: value for key, value in weight_map.items() if key != first})
    reindex(candidate, {key: value for key, value in weight_map.items() if key != first})
    assert [f.kind for f in comparison_of(base, candidate).findings] == ["fault of both"]
    reindex(
        candidate, {key: value for key, value in weight_map.items() if key not in (first, second)}
    )
    assert [f.kind for f in comparison_of(base, candidate).findings] == ["index of weights"]


def test_a_class_that_transformers_lacks_is_told_as_not_compared(sides):
    base, candidate = sides
    config = json.loads((candidate / "config.json").read_text())
    config["architectures"] = ["OtherForCausalLM"]
    (candidate / "config.json").write_text(json.dumps(config))
    comparison = compare(Sides(open_checkpoint(base), open_checkpoint(candidate), []))
    reasons = {"tied weights": "transformers has no class OtherForCausalLM"}
    assert comparison.not_compared == reasons
    assert comparison.compared == ("files of weights",)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_an_embedding_of_one_side_that_is_not_the_shared_one(tmp_path, tokenizer_folder, side):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    shutil.copy(tokenizer_folder / "tokenizer.json", tmp_path / "base")
    shutil.copy(tokenizer_folder / "tokenizer_config.json", tmp_path / "base")
    candidate = shutil.copytree(tmp_path / "base", tmp_path / "candidate")

    def copy(tensors):
        tensors[f"{side}.embed_tokens.weight"] = tensors["shared.weight"].clone()

    edit(candidate, copy)
    assert not comparison_of(tmp_path / "base", candidate).findings

    def change(tensors):
        tensors[f"{side}.embed_tokens.weight"] += 1

    edit(candidate, change)
    [text] = comparison_of(tmp_path / "base", candidate).of(Severity.FAILED)
    assert f"{side}.embed_tokens.weight and shared.weight in the file differ" in text
