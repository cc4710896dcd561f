"""Entries and rows of two vocabularies."""

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


def resize(made, rows):
    """Gives the candidate's embedding, which is its head too, more or fewer rows."""
    file = made.candidate / "model.safetensors"
    weights = load_file(file)
    more = torch.zeros(max(rows - len(weights[ROWS]), 0), weights[ROWS].shape[1])
    weights[ROWS] = torch.cat([weights[ROWS], more])[:rows].clone()
    save_file(weights, file, metadata={"format": "pt"})
    made.change("config.json", lambda config: config.update(vocab_size=rows))


@pytest.mark.parametrize(("rows", "shared"), [(640, 576), (569, 569), (570, 570)])
def test_other_rows_are_noted(copies, rows, shared):
    made = copies()
    resize(made, rows)
    severity, text = made.findings()["size of the vocabulary"]
    assert severity == Severity.NOTED
    assert text == (
        f"the number of vocabulary rows is 576 for the baseline and {rows} for the "
        f"candidate: divergences are computed over the {shared} shared rows"
    )


@pytest.mark.parametrize("rows", [569, 576, 640])
@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_rows_beyond_the_tokens_are_no_divergence(copies, tmp_path, monkeypatch, rows, kept):
    """Weights that compute the same over the shared rows diverge by nothing, from a table and side
    by side."""
    monkeypatch.setattr("compression_gates.evals.bench.WORTH_KEEPING", kept)
    made = copies()
    resize(made, rows)
    one, two = map(open_checkpoint, (made.base, made.candidate))
    bench = Bench(Store(tmp_path / "store"))
    text = bench.scores(two, {"text": DATA}, one)["text"]
    assert text["js"].max() < 1e-12
    assert text["agree"].all()
    assert int(text["vocabulary"]) == rows
    usual = bench.scores(one, {"text": DATA})["text"]
    assert text["nll"].mean() == pytest.approx(usual["nll"].mean(), rel=1e-3)


def test_shared_rows_are_renormalized_on_both_sides(copies, tmp_path):
    """Against a softmax over the shared logits alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = copies()
    resize(made, 600)
    file = made.candidate / "model.safetensors"
    weights = load_file(file)
    weights[ROWS][576:] = weights[ROWS][:24] * 2
    weights["model.norm.weight"] *= 0.7
    save_file(weights, file, metadata={"format": "pt"})
    one, two = map(open_checkpoint, (made.base, made.candidate))
    found = Bench(Store(tmp_path / "store")).scores(two, {"text": DATA}, one)["text"]
    tokenizer = AutoTokenizer.from_pretrained(made.base)
    sides = [AutoModelForCausalLM.from_pretrained(place) for place in (made.base, made.candidate)]
    expected, likelihood = [], []
    for item in DATA.items:
        ids = tokenizer(item.text, return_tensors="pt").input_ids
        with torch.inference_mode():
            logits = [side(ids).logits[0, :-1].double() for side in sides]
        p, q = (part[:, :576].softmax(-1) for part in logits)
        m = (p + q) / 2
        expected.append(((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2)
        likelihood.append(-logits[1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0])
    assert found["js"] == pytest.approx(torch.cat(expected).numpy(), rel=1e-4, abs=1e-7)
    # What the candidate gives to rows that stand for nothing is missing where it is used.
    assert found["nll"] == pytest.approx(torch.cat(likelihood).numpy(), rel=1e-4, abs=1e-5)


def test_rows_that_take_the_place_of_tokens_count_against_the_candidate(copies, tmp_path):
    made = copies()
    resize(made, 1152)
    file = made.candidate / "model.safetensors"
    weights = load_file(file)
    weights[ROWS][576:] = weights[ROWS][:576] * 1.2
    save_file(weights, file, metadata={"format": "pt"})
    one, two = map(open_checkpoint, (made.base, made.candidate))
    bench = Bench(Store(tmp_path / "store"))
    found, usual = (
        bench.scores(two, {"text": DATA}, one)["text"],
        bench.scores(one, {"text": DATA}),
    )
    assert not found["agree"].all()
    assert found["nll"].mean() > usual["text"]["nll"].mean() + 0.5


def unused(described):
    """Two entries that neither the data nor the stress texts hold."""
    words = described["model"]["vocab"]
    places = [i for i, (word, _) in enumerate(words) if word in ("Question", "Summary")]
    return words, places


def test_entries_that_no_text_holds_are_swapped(copies):
    made = copies()

    def swap(described):
        words, (one, two) = unused(described)
        words[one], words[two] = words[two], words[one]

    made.change("tokenizer.json", swap)
    found = made.findings()
    assert set(found) == {"vocabulary"}
    severity, text = found["vocabulary"]
    assert severity == Severity.FAILED
    assert "'Question' is " in text


def test_an_entry_that_no_text_holds_is_lost(copies):
    made = copies()

    def lose(described):
        words, (one, _) = unused(described)
        words[one][0] = "Quextion"

    made.change("tokenizer.json", lose)
    found = made.findings()
    assert found["vocabulary"][0] == Severity.FAILED
    assert "and none for the candidate" in found["vocabulary"][1]
    assert found["more vocabulary"] == (
        Severity.NOTED, "only the candidate has the entries 'Quextion'",
    )  # fmt: skip


def test_an_entry_in_reserve_is_lost(copies):
    made = copies("roberta-tiny")
    reserved = {"<|reserved_12|>": 640}
    made.swapped().change("tokenizer.json", lambda t: t["model"]["vocab"].update(reserved))
    told = "the candidate lacks the reserved entries '<|reserved_12|>'"
    assert made.findings() == {"unused vocabulary": (Severity.NOTED, told)}
