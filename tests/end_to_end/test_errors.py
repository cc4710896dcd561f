"""What a user gets wrong is told in a line: what and where, with exit code 4 or a failed case."""

import json
import os
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end.conftest import run_gates
from tests.processes import run_module

USAGE, FAILED = 4, 1
BASE = MODELS / "bert-tiny"
PROFILE = """
[data.reviews]
path = "{data}"
columns = {{ text = "sentence", label = "label" }}

[[suite]]
kind = "classifier"
labels = "reviews"
recipes = ["magnitude-0"]
baselines = ["{base}"]

[suite.gates]
accuracy_drop = 0.05
"""


@pytest.fixture
def place(tmp_path):
    """A folder with a copy of a shipped model, labelled rows, a text and a profile on them."""
    shutil.copytree(BASE, tmp_path / "model")
    rows = [{"sentence": f"a good story {i}", "label": i % 2} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "text.txt").write_text("a good story\na dull one\n")
    (tmp_path / "profile.toml").write_text(
        PROFILE.format(data=tmp_path / "rows.jsonl", base=tmp_path / "model")
    )
    return tmp_path


def config(place, **changes):
    file = place / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def weights(place, change):
    file = place / "model" / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def truncate(place):
    file = place / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def swap_words(place):
    file = place / "model" / "tokenizer.json"
    described = json.loads(file.read_text())
    words = described["model"]["vocab"]
    words["good"], words["dull"] = words["dull"], words["good"]
    file.write_text(json.dumps(described))


def pickle(place):
    (place / "model" / "model.safetensors").unlink()
    torch.save({}, place / "model" / "pytorch_model.bin")


def not_finite(place):
    name = "bert.encoder.layer.0.output.dense.weight"
    weights(place, lambda tensors: tensors[name].fill_(float("nan")))


CHECKPOINTS = {
    "no such path": (lambda p: shutil.rmtree(p / "model"), USAGE, "model: no such directory"),
    "no configuration": (
        lambda p: (p / "model" / "config.json").unlink(), USAGE, "model: no config.json",
    ),
    "a configuration that is none": (
        lambda p: (p / "model" / "config.json").write_text("{"), USAGE, "not a JSON object",
    ),
    "truncated weights": (truncate, USAGE, "model.safetensors does not load: SafetensorError"),
    "weights of another architecture": (
        lambda p: config(p, architectures=["BertForMaskedLM"]), USAGE, "is no model that generates",
    ),
    "another kind of model": (
        lambda p: config(p, architectures=["BertForQuestionAnswering"]), USAGE,
        "model is a extractive model",
    ),
    "no tokenizer": (
        lambda p: (p / "model" / "tokenizer.json").unlink(), USAGE, "model: no tokenizer",
    ),
    "another vocabulary": (swap_words, FAILED, "the tokenizers differ: token 3 of 'a good story'"),
    "a missing weight": (
        lambda p: weights(p, lambda t: t.pop("classifier.weight")), FAILED,
        "model lacks classifier.weight",
    ),
    "an unexpected weight": (
        lambda p: weights(p, lambda t: t.update(extra=torch.ones(1))), FAILED,
        "model has unexpected extra",
    ),
    "a weight that is no number": (not_finite, FAILED, "holds values that are not finite"),
    "pickled weights": (pickle, USAGE, "pytorch_model.bin is pickled; convert the weights"),
    "other labels": (
        lambda p: config(p, id2label={"0": "positive", "1": "negative"}), FAILED,
        "the label maps differ",
    ),
    "a shorter context": (
        lambda p: config(p, max_position_embeddings=32), FAILED,
        "the candidate accepts at most 32 tokens, the baseline 66",
    ),
    "a package that is not there": (
        lambda p: config(p, quantization_config={"quant_method": "aqlm"}), USAGE,
        "is stored as aqlm, which needs aqlm: pip install aqlm",
    ),
    "a GPU that is not there": (
        lambda p: config(p, quantization_config={"quant_method": "fp8"}), FAILED,
        "is stored as fp8, which needs a GPU; choose device cuda",
    ),
}  # fmt: skip


def told(done, code, line):
    assert done.returncode == code, done.stdout + done.stderr
    lines = [one for one in (done.stdout + done.stderr).splitlines() if line in one]
    assert lines, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert " passed" not in done.stdout
    return lines


@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if CHECKPOINTS[name][1] == USAGE])
def test_an_unusable_candidate_stops_the_run(name, place):
    broken, code, line = CHECKPOINTS[name]
    broken(place)
    done = run_gates("--baseline", BASE, "--candidate", place / "model",
                     "--text", place / "text.txt", store=place / "store")  # fmt: skip
    told(done, code, line)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """One run over all candidates that are checkpoints, and broken; and where each lies."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "text.txt").write_text("a good story\na dull one\n")
    places = {}
    for name, (broken, code, _) in CHECKPOINTS.items():
        if code == FAILED:
            places[name] = folder / name.replace(" ", "-")
            shutil.copytree(BASE, places[name] / "model")
            broken(places[name])
    done = run_gates("--baseline", BASE, "--candidate", *(p / "model" for p in places.values()),
                     "--text", folder / "text.txt", store=folder / "store")  # fmt: skip
    return done, places


@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if CHECKPOINTS[name][1] == FAILED])
def test_a_candidate_that_cannot_be_judged(name, judged):
    done, places = judged
    found = told(done, FAILED, CHECKPOINTS[name][2])
    assert any(line.startswith(f"{places[name] / 'model'}: ") for line in found)


PROFILES = {
    "empty data": (
        lambda p: (p / "rows.jsonl").write_text(""), USAGE,
        "data.reviews: .*rows.jsonl leaves no item",
    ),
    "a column that is not there": (
        lambda p: (p / "rows.jsonl").write_text('{"text": "x", "label": 0}\n'), USAGE,
        "there is no column 'sentence'; the columns are text, label",
    ),
    "a label out of range": (
        lambda p: (p / "rows.jsonl").write_text('{"sentence": "x", "label": 2}\n' * 3), USAGE,
        "rows.jsonl: item 1 .* has label 2, but model has 2 classes",
    ),
    "a label that is none": (
        lambda p: (p / "rows.jsonl").write_text('{"sentence": "x", "label": -1}\n' * 3), USAGE,
        "row 1: label -1 is not a class",
    ),
    "an unknown key": (
        lambda p: rewrite(p, "labels = ", "lables = "), USAGE,
        "unknown key 'lables'; did you mean 'labels'?",
    ),
    "a limit on no metric": (
        lambda p: rewrite(p, "accuracy_drop = ", "acuracy_drop = "), USAGE,
        "unknown key 'acuracy_drop'; did you mean 'accuracy_drop'?",
    ),
    "a gate without its data": (
        lambda p: rewrite(p, 'labels = "reviews"\n', ""), USAGE,
        "accuracy_drop needs data, but its suite names no labels",
    ),
}  # fmt: skip


def rewrite(place, old, new):
    file = place / "profile.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize("name", PROFILES)
def test_a_wrong_profile_or_its_data_stop_the_run(name, place):
    import re

    broken, code, line = PROFILES[name]
    broken(place)
    done = run_gates("--profile", place / "profile.toml", store=place / "store")
    assert done.returncode == code, done.stdout + done.stderr
    whole = done.stdout + done.stderr
    assert line in whole or re.search(line, whole), whole
    assert "Traceback" not in whole
    assert " passed" not in done.stdout


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--batch-tokens", "0"], "--batch-tokens 0: give at least 1"),
        (["--data", "reviews"], "--data reviews: give NAME=PATH"),
        (["--data", "revews=x.jsonl"], "no data set 'revews'; did you mean 'reviews'?"),
    ],
)
def test_a_wrong_value_of_an_option_stops_the_run(options, line, place):
    done = run_gates("--profile", place / "profile.toml", *options, store=place / "store")
    told(done, USAGE, line)


def test_a_run_that_does_not_start_says_so_in_its_report(place):
    """Nothing of an earlier run is left there."""
    report = place / "report"
    report.mkdir()
    (report / "report.md").write_text("# Gates")
    (report / "report.jsonl").write_text('{"verdict": {"candidate": "a", "metric": "flips"}}\n')
    truncate(place)
    options = ["--baseline", BASE, "--candidate", place / "model", "--text", place / "text.txt",
               "--report", report]  # fmt: skip
    lines = told(run_gates(*options, store=place / "store"), USAGE, "does not load")
    assert len(lines) == 1
    first = (report / "report.md").read_text().splitlines()[0]
    assert first.startswith(f"The run did not start: {place / 'model'}")
    _, row = map(json.loads, (report / "report.jsonl").read_text().splitlines())
    assert "does not load" in row["error"]
    assert not list((place / "store").rglob("*.npz"))

    (report / "report.md").write_text("# Gates")
    options = ["--profile", place / "profile.toml", "--report", report, "-k", "nothing"]
    place.joinpath("model").rename(place / "cut")
    shutil.copytree(BASE, place / "model")
    assert run_gates(*options, store=place / "store").returncode == 5
    assert "no case was run" in (report / "report.md").read_text()


def test_a_plan_names_what_cannot_be_judged(place):
    swap_words(place)
    done = run_gates("--baseline", BASE, "--candidate", place / "model", BASE,
                     "--text", place / "text.txt", "--plan", store=place / "store")  # fmt: skip
    told(done, FAILED, "ERROR: model: the tokenizers differ")
    assert "candidate bert-tiny has the same weights as the baseline bert-tiny" in done.stdout


def refuse_large_files():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def test_a_full_disk_leaves_nothing_half_written(place):
    """A limit on the size of files stands for it: writing fails in the middle in the same way."""
    run = partial(run_module, prepare=refuse_large_files)
    done = run_gates("--profile", place / "profile.toml", store=place / "store", run=run)
    told(done, FAILED, "File too large")
    assert not list((place / "store" / "candidates").iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(place):
    (place / "store").mkdir(mode=0o500)
    done = run_gates("--profile", place / "profile.toml", store=place / "store")
    told(done, USAGE, "Permission denied")


def test_a_store_that_is_a_file(place):
    (place / "store").write_text("")
    done = run_gates("--profile", place / "profile.toml", store=place / "store")
    told(done, USAGE, "store ")
