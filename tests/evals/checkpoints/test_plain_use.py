"""Checkpoints are used with plain transformers, without any repair."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from compression_gates.evals.bench import Bench
from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.checkpoints.compare import Sides
from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.checkpoints.plain_use import BATCH, GENERATION, PADDED, attempt
from compression_gates.evals.guard import TimeUp
from compression_gates.evals.models.loading import load
from compression_gates.evals.store.store import Store
from compression_gates.fixtures.world.shipped import MODELS


@pytest.fixture
def sides(causal_checkpoint):
    base = causal_checkpoint("base", pad_token_id=2).path
    return base, shutil.copytree(base, base.with_name("candidate"))


@pytest.fixture
def used(tmp_path):
    """``used(base, candidate)``: the comparison of their use."""

    def compared(base, candidate):
        bench = Bench(Store(tmp_path / "store"))
        return bench.compare_use(open_checkpoint(base), open_checkpoint(candidate))

    return compared


def set_in(folder, name, **values):
    file = folder / name
    settings = {**json.loads(file.read_text()), **values}
    file.write_text(
        json.dumps({key: value for key, value in settings.items() if value is not None})
    )


def test_copy_has_no_difference(sides, used):
    comparison = used(*sides)
    assert not comparison.findings
    assert not comparison.not_compared
    assert comparison.compared == ("loading", BATCH, GENERATION, PADDED)


def test_result_is_stored(sides, used, monkeypatch):
    used(*sides)
    monkeypatch.setattr("compression_gates.evals.models.cache.Models.load", None)
    assert not used(*sides).findings


def test_lost_padding_token(sides, used):
    base, candidate = sides
    set_in(candidate, "tokenizer_config.json", pad_token=None)
    texts = used(base, candidate).of(Severity.FAILED)
    assert [text.partition(" works")[0] for text in texts] == [BATCH, PADDED]
    assert all("ValueError: Asking to pad but the tokenizer does not" in text for text in texts)
    # The scorer pads with another token; only plain use breaks.
    assert load(open_checkpoint(candidate)).tokenizer.pad_token_id is not None


def test_failure_of_the_baseline_is_no_finding(sides, used):
    for side in sides:
        set_in(side, "tokenizer_config.json", pad_token=None)
    comparison = used(*sides)
    assert not comparison.findings
    assert "Asking to pad" in comparison.not_compared[BATCH]


def test_classifier_without_a_padding_token(tiny_llama, sides, used, tmp_path):
    """transformers reads the last token before the padding, and rejects batches without padding."""
    from transformers import LlamaForSequenceClassification

    for name, pad in (("one", 2), ("two", None)):
        config = type(tiny_llama.config)(
            **{**tiny_llama.config.to_dict(), "vocab_size": 576, "pad_token_id": pad,
               "bos_token_id": 1, "eos_token_id": 2}
        )  # fmt: skip
        torch.manual_seed(0)
        LlamaForSequenceClassification(config).save_pretrained(tmp_path / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(sides[0] / file, tmp_path / name)
    (text,) = used(tmp_path / "one", tmp_path / "two").of(Severity.FAILED)
    assert BATCH in text
    assert "padding token" in text


def test_inputs_that_the_model_does_not_accept(sides, used):
    base, candidate = sides
    names = ["input_ids", "token_type_ids", "attention_mask"]
    set_in(candidate, "tokenizer_config.json", model_input_names=names)
    texts = used(base, candidate).of(Severity.FAILED)
    assert any("token_type_ids" in text for text in texts)


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"num_beams": 1 << 20}])
def test_generation_settings_that_do_not_work(sides, used, setting):
    base, candidate = sides
    settings = {"do_sample": True, "eos_token_id": 2, "pad_token_id": 2, **setting}
    (candidate / "generation_config.json").write_text(json.dumps(settings))
    texts = used(base, candidate).of(Severity.FAILED)
    assert {text.partition(" works")[0] for text in texts} == {GENERATION, PADDED}


def test_padding_after_an_early_end(sides, used):
    base, candidate = sides
    for side, pad in ((base, 2), (candidate, 5000)):
        settings = {"eos_token_id": 2, "pad_token_id": pad}
        (side / "generation_config.json").write_text(json.dumps(settings))
    [text] = used(base, candidate).of(Severity.FAILED)
    assert text.startswith(f"{PADDED} works with the baseline and fails")


@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, {"do_sample": True, "typical_p": 0.9}, {"eos_token_id": None}]
)
def test_early_end_works_with_every_kind_of_generation(sides, used, options):
    settings = {"eos_token_id": [2, 506], "pad_token_id": 2, **options}
    for side in sides:
        (side / "generation_config.json").write_text(json.dumps(settings))
    comparison = used(*sides)
    assert not comparison.findings
    assert not comparison.not_compared


def test_random_state_is_restored(sides):
    settings = {"do_sample": True, "eos_token_id": 2, "pad_token_id": 2}
    (sides[0] / "generation_config.json").write_text(json.dumps(settings))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load(open_checkpoint(sides[0]))
    assert torch.rand(1) == expected


def tie_both(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    set_in(folder, "config.json", tie_word_embeddings=True)


def unknown_rope_key(folder):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "factor": 4.0}
    set_in(folder, "config.json", rope_parameters=rope)


def sampling_without_sampling(folder):
    settings = {"temperature": 0.2, "do_sample": False, "eos_token_id": 2, "pad_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (tie_both, "both are present in the checkpoints with different values"),
        (unknown_rope_key, "factor"),
        (sampling_without_sampling, "temperature"),
    ],
)
def test_loader_warning_is_noted(sides, used, spoil, word):
    spoil(sides[1])
    for _ in range(2):  # also warnings that are logged once per process
        notes = [finding for finding in used(*sides).findings if finding.kind == "loader's warning"]
        assert any(word in finding.text for finding in notes)
        assert all("\n" not in finding.text for finding in notes)
        assert all(str(sides[1]) not in finding.text for finding in notes)
        sides[1].with_name("again").mkdir(exist_ok=True)
        set_in(sides[1], "config.json", _name_or_path="again")


def test_python_warning_is_noted(sides, used, monkeypatch):
    import warnings

    from compression_gates.evals.models import loading

    plain = loading.AutoTokenizer.from_pretrained
    set_in(sides[1], "config.json", _name_or_path="another")

    def from_pretrained(path, **options):
        if path == sides[1]:
            warnings.warn("the old\nvocabulary is read", stacklevel=2)
        return plain(path, **options)

    monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", from_pretrained)
    assert used(*sides).of(Severity.NOTED) == ["the loader warns: the old vocabulary is read"]


def test_ignored_tensors_are_noted(sides, used):
    tensors = load_file(sides[1] / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, sides[1] / "model.safetensors", {"format": "pt"})
    (text,) = used(*sides).of(Severity.NOTED)
    assert text == "the loader ignores model.layers.*.self_attn.rotary_emb.inv_freq"


def test_renamed_tensors_are_noted(classifier_checkpoint, used):
    base = classifier_checkpoint.path
    candidate = shutil.copytree(base, base.with_name("candidate"))
    tensors = load_file(candidate / "model.safetensors")
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): t for name, t in tensors.items()}
    assert old.keys() != tensors.keys()
    save_file(old, candidate / "model.safetensors", {"format": "pt"})
    texts = used(base, candidate).of(Severity.NOTED)
    assert any("the loader renames or converts" in text and "gamma" in text for text in texts)


@pytest.mark.parametrize("name", ["llama-tiny", "bert-tiny", "albert-tiny", "roberta-tiny"])
def test_shipped_model_equals_itself(name, used):
    from compression_gates.evals.checkpoints.weights import compare as compare_files

    path = MODELS / name
    comparison = used(path, path)
    assert not comparison.findings
    assert not comparison.not_compared
    checkpoint = open_checkpoint(path)
    assert not compare_files(Sides(checkpoint, checkpoint, [])).findings


def test_incompletely_loaded_format_names_other_readers(sides):
    """transformers reshapes the zero points of asymmetric compressed-tensors weights."""
    from compression_gates.evals.errors import EvalError

    pytest.importorskip("compressed_tensors")
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    groups = {"all": {"targets": ["Linear"], "weights": weights}}
    set_in(sides[1], "config.json", quantization_config={
        "quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": groups,
        "ignore": ["lm_head"], "quantization_status": "compressed",
    })  # fmt: skip
    tensors = load_file(sides[1] / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight_zero_point"] = torch.zeros(3)
    save_file(tensors, sides[1] / "model.safetensors", {"format": "pt"})
    complaint = r"does not load compressed-tensors int-quantized completely: it .*vLLM may read it"
    with pytest.raises(EvalError, match=complaint):
        load(open_checkpoint(sides[1]))


@pytest.mark.parametrize(("method", "reader"), [("exl2", "ExLlamaV2"), ("modelopt", "vLLM")])
def test_unsupported_format_names_other_readers(sides, method, reader):
    from compression_gates.evals.errors import EvalError

    set_in(sides[1], "config.json", quantization_config={"quant_method": method})
    complaint = f"does not support quant_method '{method}'; {reader}.* may read"
    with pytest.raises(EvalError, match=complaint):
        load(open_checkpoint(sides[1]))


def test_code_of_another_repository_is_not_run(sides):
    from compression_gates.evals.errors import EvalError

    set_in(sides[1], "config.json", auto_map={"AutoModelForCausalLM": "other/repo--code.Model"})
    checkpoint = open_checkpoint(sides[1])
    with pytest.raises(EvalError, match="code of another repository and may change"):
        load(checkpoint, trust_remote_code=True)
    load(checkpoint)


@pytest.mark.parametrize("error", [TimeUp("1"), MemoryError(), torch.OutOfMemoryError("cuda")])
def test_lack_of_time_or_memory_is_no_finding(causal_checkpoint, monkeypatch, error):
    loaded = load(open_checkpoint(causal_checkpoint("base", pad_token_id=2).path))

    def generate(*args, **kwargs):
        raise error

    monkeypatch.setattr(loaded.model, "generate", generate)
    with pytest.raises(type(error)):
        attempt(loaded.model, loaded.tokenizer, loaded.checkpoint.kind, "cpu")
