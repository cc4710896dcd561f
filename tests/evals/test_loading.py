"""Broken checkpoints are refused with a one-line error."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import load


def rewrite(checkpoint, change):
    file = checkpoint.path / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    return open_checkpoint(checkpoint.path)


def reconfigure(checkpoint, **changes):
    file = checkpoint.path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop(NAME), f"lacks {NAME}"),
        (lambda t: t.update(extra=torch.ones(1)), "has unexpected extra"),
        (lambda t: t.update({NAME: torch.ones(3, 3)}), f"has the wrong shape for {NAME}"),
        (lambda t: t[NAME].fill_(float("nan")), f"{NAME} holds values that are not finite"),
    ],
)
def test_weights_that_do_not_fit(causal_checkpoint, change, complaint):
    checkpoint = rewrite(causal_checkpoint(), change)
    with pytest.raises(EvalError, match=complaint) as caught:
        load(checkpoint)
    assert "\n" not in str(caught.value)


def test_a_bitmask_checkpoint_does_not_come_up_random(causal_checkpoint):
    """transformers loads one with random weights and only logs that."""

    def compress(tensors):
        weight = tensors.pop(NAME)
        tensors[f"{NAME}_compressed"] = weight[weight != 0]
        tensors[f"{NAME}_bitmask"] = (weight != 0).to(torch.uint8)

    with pytest.raises(EvalError, match=f"lacks {NAME}"):
        load(rewrite(causal_checkpoint(), compress))


def test_truncated_weights(causal_checkpoint):
    checkpoint = causal_checkpoint()
    file = checkpoint.path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(EvalError, match="does not load"):
        load(checkpoint)


def test_no_such_directory_and_a_file():
    with pytest.raises(EvalError, match=r"\./nowhere: no such directory"):
        open_checkpoint("./nowhere")
    with pytest.raises(EvalError, match="is a file"):
        open_checkpoint(__file__)


def test_a_hub_that_is_not_there(monkeypatch):
    import huggingface_hub

    def offline(reference, allow_patterns, revision):
        assert "*.bin" not in allow_patterns
        raise ConnectionError("offline\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    reason = r"cannot be downloaded from the hub \(ConnectionError: offline\)"
    with pytest.raises(EvalError, match=reason):
        open_checkpoint("someone/model")


def test_a_hub_that_is_there(monkeypatch, causal_checkpoint):
    import huggingface_hub

    path = causal_checkpoint().path
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(path))
    assert open_checkpoint("someone/model").path == path


def test_what_is_not_a_checkpoint(causal_checkpoint, tmp_path):
    path = causal_checkpoint().path
    reconfigure(open_checkpoint(path), architectures=["BertForMaskedLM"])
    with pytest.raises(EvalError, match="no model that generates text, classifies it"):
        open_checkpoint(path)
    (path / "config.json").write_text("{")
    with pytest.raises(EvalError, match="not a JSON object"):
        open_checkpoint(path)
    (path / "config.json").unlink()
    with pytest.raises(EvalError, match=r"no config\.json"):
        open_checkpoint(path)


def test_pickled_weights_are_refused(causal_checkpoint):
    path = causal_checkpoint().path
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(EvalError, match="pickled; convert the weights to safetensors"):
        open_checkpoint(path)
    (path / "pytorch_model.bin").unlink()
    with pytest.raises(EvalError, match=r"no \*\.safetensors file"):
        open_checkpoint(path)


def test_the_digest_covers_weights_configuration_and_tokenizer(causal_checkpoint):
    checkpoint = causal_checkpoint()
    digests = [open_checkpoint(checkpoint.path).digest for _ in range(2)]
    reconfigure(checkpoint, rms_norm_eps=1e-3)
    digests.append(open_checkpoint(checkpoint.path).digest)
    rewrite(checkpoint, lambda t: t[NAME].mul_(2))
    digests.append(open_checkpoint(checkpoint.path).digest)
    (checkpoint.path / "tokenizer_config.json").write_text("{}")
    digests.append(open_checkpoint(checkpoint.path).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_only_the_files_that_a_loader_reads_are_counted(causal_checkpoint):
    checkpoint = causal_checkpoint()
    weights = checkpoint.path / "model.safetensors"
    (checkpoint.path / "consolidated.safetensors").write_bytes(weights.read_bytes())
    assert open_checkpoint(checkpoint.path).weight_bytes == weights.stat().st_size


def test_a_shard_that_is_missing_is_named(causal_checkpoint):
    checkpoint = causal_checkpoint()
    (checkpoint.path / "model.safetensors").rename(checkpoint.path / "other.safetensors")
    index = {"weight_map": {NAME: "model-00001-of-00002.safetensors"}}
    (checkpoint.path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EvalError, match=r"model-00001-of-00002\.safetensors is missing"):
        open_checkpoint(checkpoint.path)


def test_an_index_beside_whole_weights_is_not_read(causal_checkpoint):
    checkpoint = causal_checkpoint()
    (checkpoint.path / "model.safetensors.index.json").write_text("{")
    whole = (checkpoint.path / "model.safetensors").stat().st_size
    assert open_checkpoint(checkpoint.path).weight_bytes == whole


@pytest.mark.parametrize("text", ["{nope", "{}", "[]", '{"weight_map": 3}'])
def test_an_index_that_is_none(causal_checkpoint, text):
    path = causal_checkpoint().path
    (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
    (path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(EvalError, match="not an index of weights"):
        open_checkpoint(path)


@pytest.mark.parametrize("architectures", [[1], 3, "x"])
def test_architectures_that_are_none(causal_checkpoint, architectures):
    checkpoint = causal_checkpoint()
    reconfigure(checkpoint, architectures=architectures)
    with pytest.raises(EvalError, match=r"config\.json"):
        open_checkpoint(checkpoint.path)


def test_no_tokenizer_is_not_made_up(causal_checkpoint):
    path = causal_checkpoint().path
    (path / "tokenizer.json").unlink()
    with pytest.raises(EvalError, match="no tokenizer"):
        open_checkpoint(path)


def test_a_tokenizer_beyond_the_embedding(causal_checkpoint):
    with pytest.raises(EvalError, match=r"its tokenizer gives ids up to \d+, but its embedding"):
        load(causal_checkpoint(vocab_size=100))


def test_a_form_that_transformers_does_not_know(causal_checkpoint):
    """It would interpret the codes of such weights as numbers."""
    path = causal_checkpoint().path
    reconfigure(open_checkpoint(path), quantization_config={"quant_method": "zork"})
    with pytest.raises(EvalError, match="transformers does not support quant_method 'zork'"):
        load(open_checkpoint(path))


def test_a_gguf_file_is_in_its_digest_whatever_its_name(tmp_path):
    pytest.importorskip("gguf")
    digests = set()
    for content in (b"a", b"b"):
        (tmp_path / "m[Q4].gguf").write_bytes(content)
        digests.add(open_checkpoint(tmp_path / "m[Q4].gguf").digest)
    assert len(digests) == 2


def test_a_borrowed_tokenizer_is_in_the_digest(causal_checkpoint, tmp_path):
    pytest.importorskip("gguf")
    base = causal_checkpoint()
    (tmp_path / "bare").mkdir()
    file = tmp_path / "bare" / "model.gguf"
    file.write_bytes(b"a")
    before = open_checkpoint(file).with_tokenizer_of(base).digest
    (base.path / "chat_template.jinja").write_text("{{ messages }}")
    assert open_checkpoint(file).with_tokenizer_of(base).digest != before


def test_label_maps_are_read_by_index(classifier_checkpoint):
    reconfigure(classifier_checkpoint, id2label={"1": "good", "0": "bad"})
    assert open_checkpoint(classifier_checkpoint.path).class_names == ("bad", "good")


def test_classes_of_the_data_in_another_order_are_refused(classifier_checkpoint):
    from compression_gates.evals.checkpoints.checkpoint import check_names
    from compression_gates.evals.data.items import DataSet, Labelled

    reconfigure(classifier_checkpoint, id2label={"0": "bad", "1": "good"})
    checkpoint = open_checkpoint(classifier_checkpoint.path)
    for classes, fine in ((("Bad", "Good"), True), (("good", "bad"), False), (("x", "y"), True)):
        data = DataSet("d", (Labelled("t", 0, 0),), classes=tuple(classes))
        if fine:
            check_names(checkpoint, data)
        else:
            with pytest.raises(EvalError, match="list them in the model's order"):
                check_names(checkpoint, data)


def test_weights_that_the_text_model_describes_are_not_plain(causal_checkpoint):
    """transformers unpacks them as if the whole model described them."""
    path = causal_checkpoint().path
    described = json.loads((path / "config.json").read_text())
    described["text_config"] = {"quantization_config": {"quant_method": "compression-gates"}}
    (path / "config.json").write_text(json.dumps(described))
    assert open_checkpoint(path).form == "compression-gates"
