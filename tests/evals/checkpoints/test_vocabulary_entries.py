"""Entries and rows of two vocabularies are compared."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from compression_gates.evals.bench import Bench
from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.data.items import DataSet, Text
from compression_gates.evals.store.store import Store
from compression_gates.fixtures.world import corpus

DATA = DataSet("texts", tuple(Text(corpus.passage("held-out", i).text[:300], i) for i in range(3)))
ROWS = "model.embed_tokens.weight"


def resize(checkpoints, rows):
    """Change the number of rows of the candidate's embedding, which is tied to its head."""
    file = checkpoints.candidate / "model.safetensors"
    weights = load_file(file)
    more = torch.zeros(max(rows - len(weights[ROWS]), 0), weights[ROWS].shape[1])
    weights[ROWS] = torch.cat([weights[ROWS], more])[:rows].clone()
    save_file(weights, file, metadata={"format": "pt"})
    checkpoints.change("config.json", lambda config: config.update(vocab_size=rows))


@pytest.mark.parametrize(("rows", "shared"), [(640, 576), (569, 569), (570, 570)])
def test_different_number_of_rows_is_noted(copies, rows, shared):
    checkpoints = copies()
    resize(checkpoints, rows)
    severity, text = checkpoints.findings()["size of the vocabulary"]
    assert severity == Severity.NOTED
    assert text == (
        f"the number of vocabulary rows is 576 for the baseline and {rows} for the "
        f"candidate: divergences are computed over the {shared} shared rows"
    )


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (576, "states"),
        *(pytest.param(576, kept, marks=pytest.mark.full) for kept in ("logits", "nothing")),
        *((rows, kept) for rows in (569, 640) for kept in ("states", "logits", "nothing")),
    ],
)
def test_additional_rows_cause_no_divergence(copies, tmp_path, monkeypatch, rows, kept):
    """Equal logits over the shared rows have no divergence, with files and side by side."""
    if kept != "states":
        head = "compression_gates.evals.scoring.head._matching_head"
        monkeypatch.setattr(head, lambda *args: None)
    if kept == "nothing":
        monkeypatch.setattr("compression_gates.evals.bench.MAX_LOGITS_BYTES", 0)
    checkpoints = copies()
    resize(checkpoints, rows)
    one, two = map(open_checkpoint, (checkpoints.base, checkpoints.candidate))
    bench = Bench(Store(tmp_path / "store"))
    text = bench.scores(two, {"text": DATA}, one)["text"]
    assert text["js"].max() < 1e-12
    assert text["agree"].all()
    assert int(text["vocabulary"]) == rows
    usual = bench.scores(one, {"text": DATA})["text"]
    assert text["nll"].mean() == pytest.approx(usual["nll"].mean(), rel=1e-3)


def test_shared_rows_are_renormalized_on_both_sides(copies, tmp_path):
    """The expected values use a softmax over the shared logits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoints = copies()
    resize(checkpoints, 600)
    file = checkpoints.candidate / "model.safetensors"
    weights = load_file(file)
    weights[ROWS][576:] = weights[ROWS][:24] * 2
    weights["model.norm.weight"] *= 0.7
    save_file(weights, file, metadata={"format": "pt"})
    one, two = map(open_checkpoint, (checkpoints.base, checkpoints.candidate))
    scores = Bench(Store(tmp_path / "store")).scores(two, {"text": DATA}, one)["text"]
    tokenizer = AutoTokenizer.from_pretrained(checkpoints.base)
    sides = [
        AutoModelForCausalLM.from_pretrained(place)
        for place in (checkpoints.base, checkpoints.candidate)
    ]
    expected, likelihood = [], []
    for item in DATA.items:
        ids = tokenizer(item.text, return_tensors="pt").input_ids
        with torch.inference_mode():
            logits = [side(ids).logits[0, :-1].double() for side in sides]
        p, q = (part[:, :576].softmax(-1) for part in logits)
        m = (p + q) / 2
        expected.append(((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2)
        likelihood.append(-logits[1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0])
    assert scores["js"] == pytest.approx(torch.cat(expected).numpy(), rel=1e-4, abs=1e-7)
    # Probability that the candidate assigns to rows without tokens is missing elsewhere.
    assert scores["nll"] == pytest.approx(torch.cat(likelihood).numpy(), rel=1e-4, abs=1e-5)


def test_probability_of_additional_rows_counts_against_the_candidate(copies, tmp_path):
    checkpoints = copies()
    resize(checkpoints, 1152)
    file = checkpoints.candidate / "model.safetensors"
    weights = load_file(file)
    weights[ROWS][576:] = weights[ROWS][:576] * 1.2
    save_file(weights, file, metadata={"format": "pt"})
    one, two = map(open_checkpoint, (checkpoints.base, checkpoints.candidate))
    bench = Bench(Store(tmp_path / "store"))
    scores, usual = (
        bench.scores(two, {"text": DATA}, one)["text"],
        bench.scores(one, {"text": DATA}),
    )
    assert not scores["agree"].all()
    assert scores["nll"].mean() > usual["text"]["nll"].mean() + 0.5


def unused(described):
    """Return two entries that neither the data nor the stress texts contain."""
    words = described["model"]["vocab"]
    places = [i for i, (word, _) in enumerate(words) if word in ("Question", "Summary")]
    return words, places


def test_swapped_entries(copies):
    checkpoints = copies()

    def swap(described):
        words, (one, two) = unused(described)
        words[one], words[two] = words[two], words[one]

    checkpoints.change("tokenizer.json", swap)
    findings = checkpoints.findings()
    assert set(findings) == {"vocabulary"}
    severity, text = findings["vocabulary"]
    assert severity == Severity.FAILED
    assert "'Question' is " in text


def test_lost_entry(copies):
    checkpoints = copies()

    def lose(described):
        words, (one, _) = unused(described)
        words[one][0] = "Quextion"

    checkpoints.change("tokenizer.json", lose)
    findings = checkpoints.findings()
    assert findings["vocabulary"][0] == Severity.FAILED
    assert "and none for the candidate" in findings["vocabulary"][1]
    assert findings["more vocabulary"] == (
        Severity.NOTED, "only the candidate has the entries 'Quextion'",
    )  # fmt: skip


def test_lost_reserved_entry(copies):
    checkpoints = copies("roberta-tiny")
    reserved = {"<|reserved_12|>": 640}
    checkpoints.swapped().change("tokenizer.json", lambda t: t["model"]["vocab"].update(reserved))
    message = "the candidate lacks the reserved entries '<|reserved_12|>'"
    assert checkpoints.findings() == {"unused vocabulary": (Severity.NOTED, message)}
