"""Errors of ``compression-gates compress``; tests/end_to_end has valid uses."""

import json
import os
import signal
import time

import pytest
import torch
from safetensors import SafetensorError

from compression_gates.compression.__main__ import _change, main
from compression_gates.compression.catalogue import LOSSES
from compression_gates.compression.model.references import check_reference
from compression_gates.compression.recipe import Recipe
from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS


@pytest.fixture
def reviews(tmp_path):
    rows = [corpus.review("calibration", index) for index in range(64)]
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(json.dumps({"text": r.text, "label": r.label}) for r in rows))
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing: recipe, model, output"),
        (["wander-50", "--model", "m", "--output", "o"], "did you mean 'wanda'"),
        (["wanda-50", "--model", "m", "--output", "{out}"], "needs texts; give --data FILE"),
        (["rtn-int8", "--model", "{tmp}", "--output", "{out}"], "no config.json"),
        (["rtn-int8", "--model", "/nowhere/x", "--output", "{out}"],
         "--model /nowhere/x: no such directory"),
        (["rtn-int8", "--model", "{bert}", "--output", "{tmp}"], "exists; give a directory"),
        (["rtn-int8", "--model", "{bert}", "--output", "{bert}/config.json/x"],
         "Not a directory"),
        (["wanda-50", "--model", "{bert}", "--output", "{out}", "--data", "/nowhere.txt"],
         "--data /nowhere.txt: No such file"),
        (["wanda-50", "--model", "{bert}", "--output", "{out}", "--data", "{bad}"],
         "line 2 is not"),
        (["wanda-50", "--model", "{bert}", "--output", "{out}", "--data", "{empty}"],
         "contains no text"),
        (["wanda-50", "--model", "{bert}", "--output", "{out}", "--data", "{table}"],
         "line 2 is not"),
        (["wanda-0.5", "--model", "{bert}", "--output", "{out}", "--data", "{good}"],
         "for 50 % write wanda-50"),
        (["taylor-50", "--model", "{bert}", "--output", "{out}", "--data", "{labels}"],
         "text 1 has label 7, but the model has 2 classes"),
        (["wanda-3:5", "--model", "{bert}", "--output", "{out}", "--data", "{good}"],
         "an input width of 96 is not a multiple of 5"),
        (["rtn-int8,include=*ffn*", "--model", "{bert}", "--output", "{out}"],
         "'*ffn*' matches no linear layer"),
        (["rtn-int8", "--model", "{bert}", "--output", "{out}", "--device", "cuda"],
         "this machine has no CUDA device"),
    ],
)  # fmt: skip
def test_usage_errors(tmp_path, reviews, capsys, monkeypatch, words, message):
    files = {
        "bad": '{"text": "a"}\n{"txt": "b"}\n',
        "labels": '{"text": "a", "label": 7}\n',
        "empty": "\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "reviews.csv").write_text("review,stars\ngood,1\n")
    places = {name: tmp_path / f"{name}.jsonl" for name in files}
    places |= {"out": tmp_path / "out", "tmp": tmp_path, "bert": MODELS / "bert-tiny",
               "good": reviews, "table": tmp_path / "reviews.csv"}  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    try:
        code = main([word.format(**places) for word in words])
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def broken_copy(tmp_path, name, change):
    import shutil

    shutil.copytree(MODELS / name, tmp_path / "model")
    change(tmp_path / "model")
    return tmp_path / "model"


def reweigh(directory, change):
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def reconfigure(directory, **settings):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def other_tokenizer(directory):
    for file in (MODELS / "llama-tiny").glob("tokenizer*"):
        (directory / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: reweigh(d, lambda t: t.update(extra=torch.ones(2))), "has unexpected extra"),
        (lambda d: reweigh(d, lambda t: t.pop("classifier.bias")), "lacks classifier.bias"),
        (lambda d: reweigh(d, lambda t: t["classifier.bias"].fill_(torch.nan)),
         "classifier.bias holds values that are not finite"),
        (lambda d: reconfigure(d, num_hidden_layers=2), "has unexpected bert.encoder.layer.2"),
        (lambda d: reconfigure(d, max_position_embeddings=9),
         "for bert.embeddings.position_embeddings.weight, but the model expects (9, 96)"),
        (lambda d: reconfigure(d, architectures=["BertModel"]), "has no head"),
        (lambda d: reconfigure(d, architectures=["pipeline"]), "has no architecture pipeline"),
        (lambda d: reconfigure(d, hidden_act="nope"), "does not load"),
        (lambda d: reconfigure(d, quantization_config={"quant_method": "gptq", "bits": 4}),
         "already compressed"),
        (lambda d: (d / "config.json").write_text("null"), "does not load"),
        (lambda d: (d / "tokenizer.json").write_text("{}"), "does not load"),
        (lambda d: (d / "model.safetensors").write_bytes(b"short"), "does not load"),
        (lambda d: (d / "model.safetensors").unlink(), "no *.safetensors file"),
        (other_tokenizer, "its tokenizer has ids up to"),
    ],
)  # fmt: skip
def test_invalid_checkpoints(tmp_path, capsys, change, message):
    model = broken_copy(tmp_path, "bert-tiny", change)
    assert main(["rtn-int8", "--model", str(model), "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert f"--model {model}" in line
    assert message in line
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("named", "message"),
    [("{bert}", "lacks"), ("./nope", "no such directory"), ("{bert}/config.json", "is a file")],
)
def test_invalid_augmentation_models(tmp_path, reviews, capsys, named, message):
    named = named.format(bert=MODELS / "bert-tiny")
    words = [f"distill,steps=1,generate={named}", "--model", str(MODELS / "bert-tiny"),
             "--output", str(tmp_path / "out"), "--data", str(reviews)]  # fmt: skip
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"generate = {named}" in line
    assert message in line


def test_other_files_are_not_touched(tmp_path, capsys):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("years of work")
    words = ["magnitude-50", "--model", str(MODELS / "bert-tiny"), "--output"]
    assert main([*words, str(tmp_path / "out")]) == 0
    assert (tmp_path / "out.partial" / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.partial"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert main([*words, str(tmp_path / "link")]) == 2
    assert "exists; give a directory that does not" in capsys.readouterr().err


def test_full_disk(tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    output = tmp_path / "out"
    words = ["magnitude-50", "--model", str(MODELS / "bert-tiny"), "--output", str(output)]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--output {output}: I/O error: No space left" in line
    assert not list(tmp_path.iterdir())


def test_keyboard_interrupt(tmp_path, capsys, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("compression_gates.compression.apply.compress", interrupted)
    words = ["magnitude-50", "--model", str(MODELS / "bert-tiny")]
    assert main([*words, "--output", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.splitlines() == [
        "compression-gates compress: interrupted; nothing was written"
    ]


def test_sigterm_removes_partial_files(tmp_path, capfd, monkeypatch):
    def terminated(*args, **kwargs):
        assert list(tmp_path.glob("out.*.partial"))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("compression_gates.compression.checkpoint.saving.check_reloads", terminated)
    words = ["magnitude-50", "--model", str(MODELS / "bert-tiny")]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--output", str(tmp_path / "out")])
    assert stopped.value.code == 143
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before
    assert "terminated; nothing was written" in capfd.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", '{"num_beams": "many"'])
def test_invalid_generation_config(tmp_path, capsys, text):
    def spoil(directory):
        (directory / "generation_config.json").write_text(text)

    model = broken_copy(tmp_path, "llama-tiny", spoil)
    assert main(["rtn-int8", "--model", str(model), "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--model {model} does not load: " in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "named",
    ["./x", "../x", "/x", "~/x", "~nosuchuser", "~nosuchuser/x", "here/x", "here/", "a/b/c", "a b",
     "x/", "file://x", "here\\x", "-x", "a--b", "x" * 200, "\0"],
)  # fmt: skip
def test_paths_are_not_sent_to_the_hub(tmp_path, capsys, monkeypatch, named):
    def asked(*args, **kwargs):
        raise AssertionError("the hub is asked")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", asked)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for words in (["rtn-int8", f"--model={named}"],
                  ["rtn-int8+distill,steps=1,data=t,generate=g", f"--model={named}"]):  # fmt: skip
        (tmp_path / "t").write_text("a text\n")
        assert main([*words, "--output", "out"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "no such directory" in line or "no config.json" in line or "generate = g" in line


@pytest.mark.parametrize("named", ["gpt2", "org/model", "org/model-7B.v2", "mistralai/x_y"])
def test_hub_ids_are_unchanged(named):
    assert check_reference(named, "--model") == named


def test_tilde_is_expanded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(MODELS))
    words = ["Magnitude-50", "--model", "~/bert-tiny", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "magnitude-50" in captured.out
    assert "unchanged: a dense file stores its zeros" in captured.out


def test_change_of_size():
    assert _change(1000, 1001) == _change(1001, 1000) == _change(5, 5) == "unchanged"
    assert _change(1000, 1011) == "1.01x larger"
    assert _change(1000, 500) == "2.00x smaller"


def test_resolver(tmp_path, capsys):
    words = ["magnitude-50", "--model", "short", "--output", str(tmp_path / "out")]
    assert main(words, {"short": str(MODELS / "bert-tiny")}.get) == 0
    assert "--baseline short" in capsys.readouterr().out


def test_list_contains_the_valid_values(capsys):
    assert main(["--list"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    for choices in ("one of uniform, owl", "one of layer, row, global", "one of channel, tensor",
                    "one of magnitude, activation, taylor", "an integer from 2 to 8",
                    "true or false", ", ".join(LOSSES), "N:M with 0 < N < M"):  # fmt: skip
        assert choices in output


@pytest.mark.parametrize("text", ["GPTQ-INT4", "Gptq-int4", "gptq-int4"])
def test_method_names_are_case_insensitive(text):
    assert Recipe.parse(text).name == "gptq-int4"
    assert Recipe.parse({"method": "SparseGPT", "pattern": "2:4"}).name == "sparsegpt-2:4"


PanicException = type("PanicException", (BaseException,), {})
"""Like the class of panics in tokenizers and safetensors, which cannot be imported."""


def _panics(*args, **kwargs):
    raise PanicException("called `Option::unwrap()`\non a `None` value")


@pytest.mark.parametrize(
    "place",
    [
        "transformers.AutoTokenizer.from_pretrained",
        "compression_gates.compression.model.texts.batches_of",
        "compression_gates.compression.pruning.wanda.wanda_scores",
        "transformers.models.bert.modeling_bert.BertOutput.forward",
        "compression_gates.compression.checkpoint.saving.save_tokenizer",
        "compression_gates.compression.model.texts.check_labels",
    ],
)
def test_rust_panics_are_reported_on_one_line(tmp_path, reviews, capsys, monkeypatch, place):
    monkeypatch.setattr(place, _panics)
    words = ["wanda-50", "--model", str(MODELS / "bert-tiny"), "--data", str(reviews)]
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "PanicException: called `Option::unwrap()` on a `None` value" in line
    assert not (tmp_path / "out").exists()


def _raises(*args, **kwargs):
    raise ZeroDivisionError("a method's own\nfault")


@pytest.mark.parametrize(
    ("recipe", "place", "layer"),
    [
        ("rtn-int8", "quantization.nearest.round_to_nearest", "layer bert.encoder"),
        ("svd-50", "low_rank.svd.factorize", "layer bert.encoder"),
        ("magnitude-50", "pruning.magnitude.magnitude_scores", "layer bert.encoder"),
        ("wanda-50", "pruning.wanda.wanda_scores", "layer bert.encoder"),
        ("sparsegpt-50", "calibration.statistics.inverse_factor", "layer bert.encoder"),
        ("wanda-50", "transformers.models.bert.modeling_bert.BertOutput.forward",
         "layer bert.encoder.layer.0"),
        ("heads-50", "structured.importance._consumer_squares", "layer bert.encoder"),
        ("awq-int4", "scaling.awq.search", "layer bert.encoder"),
        ("smoothquant", "scaling.smoothquant.smoothing_scales", "layer bert.encoder"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("debug", [False, True])
def test_errors_of_methods_are_reported_on_one_line(
    tmp_path, reviews, capsys, monkeypatch, recipe, place, layer, debug
):
    if not place.startswith("transformers"):
        place = f"compression_gates.compression.{place}"
    monkeypatch.setattr(place, _raises)
    words = [recipe, "--model", str(MODELS / "bert-tiny"), "--data", str(reviews)]
    words += ["--output", str(tmp_path / "out"), *(["--debug"] if debug else [])]
    assert main(words) == 2
    captured = capsys.readouterr()
    *before, line = captured.err.splitlines()
    assert line.startswith("compression-gates compress: error: ")
    assert "a method's own fault" in line
    assert layer in line
    assert captured.out == ""
    assert ("Traceback (most recent call last):" in before) == debug
    assert debug or not before
    assert not (tmp_path / "out").exists()
