"""Checkpoints that other libraries made are judged in one command, each in its own format."""

import json
import math
import re

import pytest
import torch
from torch.nn import functional as F

from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.checkpoints.compare import Sides, compare
from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.data.items import DataSet, Text
from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end import foreign

BASE = MODELS / "llama-tiny"
TEXTS = [corpus.passage("held-out", index).text for index in range(12)]

PROFILE = """
[[suite]]
kind = "causal"

[suite.gates]
perplexity_drift = 0.05
js_divergence = 0.05
compression_ratio = 0.99
speedup = 0.2
"""
"""Its limit of the speedup is far from all of them, and so decided by few runs."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    return {name: make(BASE, folder / name) for name, make in foreign.MAKERS.items()}


@pytest.fixture(scope="module")
def judged(made, tmp_path_factory, request):
    """What the command line says of all of them at once: its process, and a row for each gate.

    With ``--full``, of all gates that checkpoints made elsewhere have by default.
    """
    from tests.end_to_end.conftest import run_gates

    folder = tmp_path_factory.mktemp("judged")
    text = folder / "texts.jsonl"
    text.write_text("".join(json.dumps({"text": passage}) + "\n" for passage in TEXTS))
    profile = folder / "profile.toml"
    profile.write_text(PROFILE)
    chosen = "checkpoints" if request.config.option.full else profile
    done = run_gates(
        "--profile", chosen, "--baseline", BASE, "--candidate", *made.values(), "--text", text,
        "--report", folder, store=folder / "store",
    )  # fmt: skip
    return done, verdicts_in(folder)


def verdicts_in(folder):
    """The rows of a report that hold a verdict, by candidate and metric."""
    rows = [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "verdict" in row]
    return {(row["verdict"]["candidate"], row["verdict"]["metric"]): row for row in rows}


def name_of(name, made):
    """Two files are both called ``model.gguf``."""
    return str(made[name]) if name.startswith("gguf") else name


def loaded(name, path):
    """A candidate as plain transformers, or the library that owns it, gives it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if name == "lora":
        model = AutoModelForCausalLM.from_pretrained(BASE)
        return PeftModel.from_pretrained(model, path).eval()
    if name.startswith("gguf"):
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
    return AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()


@pytest.mark.parametrize("name", foreign.MAKERS)
def test_no_format_differs_from_its_baseline(made, name):
    """What libraries save again is the baseline's, beside its weights."""
    base = open_checkpoint(BASE)
    candidate = open_checkpoint(made[name], base=base).with_tokenizer_of(base)
    data = DataSet("texts", tuple(Text(text, index) for index, text in enumerate(TEXTS)))
    found = compare(Sides(base, candidate, [data])).findings
    assert [one for one in found if one.severity != Severity.NOTED] == []


def test_the_exit_code_follows_the_verdicts(judged):
    done, rows = judged
    failed = [row for row in rows.values() if not row["passed"]]
    assert done.returncode == (1 if failed else 0)
    assert "Traceback" not in done.stdout
    assert len({candidate for candidate, _ in rows}) == len(foreign.MAKERS)


@pytest.mark.parametrize("name", foreign.MAKERS)
def test_perplexity_is_that_of_plain_transformers(name, made, judged):
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(BASE), loaded(name, made[name])
    total, count = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1].float()
        total += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += ids.numel() - 1
    row = judged[1][name_of(name, made), "perplexity_drift"]
    assert row["verdict"]["measured"] == pytest.approx(math.exp(total / count), rel=1e-4)
    assert row["verdict"]["n"] == count


@pytest.mark.parametrize("name", [n for n in foreign.MAKERS if n != "gguf-q4"])
def test_a_good_checkpoint_passes(name, made, judged):
    row = judged[1][name_of(name, made), "perplexity_drift"]
    assert row["passed"], row


@pytest.mark.parametrize(
    ("name", "form", "kernel", "reason"),
    [
        ("w4a16", "compressed-tensors pack-quantized", "", "no kernel for int4 weights in groups"),
        ("w8a8", "compressed-tensors int-quantized", "int8 weights and int8 inputs: onednn", ""),
        ("fp8", "compressed-tensors float-quantized", "", "no kernel for float8 weights"),
        ("torchao-int8", "torchao", "int8 weights: aten::mm", ""),
        ("bitsandbytes-int8", "bitsandbytes", "int8 weights and int8 inputs: onednn", ""),
        ("gguf-q8", "gguf", "", "weights are unpacked on loading, so no kernel for gguf runs here"),
        ("lora", "lora", "dense", ""),
        ("sharded", "plain", "dense", ""),
    ],
)
def test_speed_is_judged_only_where_the_stored_form_runs(name, form, kernel, reason, made, judged):
    row = judged[1][name_of(name, made), "speedup"]
    assert row["form"] == form
    assert row["kernel"].startswith(kernel)
    assert (row["verdict"]["outcome"] == "not judged") == bool(reason)
    assert row["verdict"]["n"] == 0 if reason else row["verdict"]["n"] >= 8
    if reason:
        assert row["passed"]
        assert reason in row["verdict"]["reason"]
        assert row["verdict"]["reason"] in judged[0].stdout
    else:
        assert row["evidence"][0].startswith("a batch of 1,024 tokens: baseline ")


GGUF_KINDS = ("Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16")
GGUF_PROFILE = """
[[suite]]
kind = "causal"

[suite.gates]
perplexity_drift = 0.05
"""


def check_gguf_files(folder, kinds):
    """Judge files that differ in the types of their matrices, and compare what is loaded."""
    from gguf import GGUFReader, dequantize
    from transformers import AutoModelForCausalLM

    from tests.end_to_end.conftest import run_gates

    base = foreign.doubled(BASE, folder / "base")
    made = {name: foreign.gguf(kind, tokenizer=True)(base, folder / name)
            for name, kind in kinds.items()}  # fmt: skip
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    (folder / "profile.toml").write_text(GGUF_PROFILE)
    done = run_gates("--profile", folder / "profile.toml", "--baseline", base,
                     "--candidate", *made.values(), "--text", folder / "texts.jsonl",
                     "--report", folder / "report", store=folder / "store")  # fmt: skip
    rows = verdicts_in(folder / "report")
    for name, path in made.items():
        assert rows[str(path), "artifact_differences"]["passed"], done.stdout
        drift = rows[str(path), "perplexity_drift"]
        assert drift["passed"] or name in ("Q2_K", "Q3_K"), (name, drift)
        types = sorted([*(f"{kind} {30 // len(kinds[name])}" for kind in kinds[name]), "F32 9"])
        told = re.search(rf"quantization types: (.*) \({re.escape(str(path))}\)", done.stdout)
        assert sorted(told[1].split(", ")) == types
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
        compared = set()
        for tensor in GGUFReader(path).tensors:
            found = re.fullmatch(r"blk\.(\d+)\.ffn_(\w+)\.weight", tensor.name)
            if not found or found[2] == "norm":
                continue
            expected = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            module = getattr(model.model.layers[int(found[1])].mlp, f"{found[2]}_proj")
            assert torch.equal(module.weight.float(), expected.float())
            compared.add(tensor.tensor_type.name)
        assert compared == set(kinds[name])


def test_every_quantization_type_of_gguf_is_judged(tmp_path):
    """In one file, as converters mix them, and two types alone."""
    check_gguf_files(tmp_path, {"all": GGUF_KINDS, "Q5_0": ["Q5_0"], "Q4_K": ["Q4_K"]})


@pytest.mark.full  # the file that has all types loads each of them
def test_every_quantization_type_of_gguf_alone_is_judged(tmp_path):
    check_gguf_files(tmp_path, {kind: [kind] for kind in GGUF_KINDS})


@pytest.mark.parametrize("name", foreign.REFUSED)
def test_what_does_not_load_fails_in_a_line(name, tmp_path):
    from tests.end_to_end.conftest import run_gates

    (tmp_path / "text.txt").write_text(TEXTS[0])
    path = foreign.REFUSED[name](BASE, tmp_path / name)
    done = run_gates("--baseline", BASE, "--candidate", path, "--text", tmp_path / "text.txt",
                     store=tmp_path / "store")  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert "does not load" in done.stdout or "has the wrong shape" in done.stdout
    assert " 0 passed" not in done.stdout
    assert "passed" not in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_four_bits_by_gptqmodel(method, tmp_path, monkeypatch):
    """Its own requirements do not go with the pinned ones: run where it has been installed."""
    monkeypatch.chdir(tmp_path)  # it leaves logs where it stands
    pytest.importorskip("gptqmodel")
    from tests.end_to_end.conftest import run_gates

    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    path = foreign.gptqmodel(method)(BASE, tmp_path / method)
    done = run_gates("--baseline", BASE, "--candidate", path, "--text", tmp_path / "texts.jsonl",
                     "-m", "quality", store=tmp_path / "store")  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"stored as   {method}" in done.stdout
    assert "unpacked" not in done.stdout
