"""Scorers against plain transformers, one item at a time."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compression_gates.evals.data.items import DataSet, Labelled, Prompt, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.prediction_divergence import divergences
from compression_gates.evals.models.loading import Loaded, load
from compression_gates.evals.scoring.classes import classify
from compression_gates.evals.scoring.generation import generate
from compression_gates.evals.scoring.protocols import (
    ClassProtocol,
    GenerationProtocol,
    SpeedProtocol,
    TextProtocol,
)
from compression_gates.evals.scoring.speed import time_pairs
from compression_gates.evals.scoring.text import score_text
from compression_gates.fixtures.world import corpus

PASSAGES = [corpus.passage("calibration", index) for index in range(7)]
TEXTS = DataSet("texts", tuple(Text(p.text[: 60 * (i + 1)], i) for i, p in enumerate(PASSAGES)))


def log_probabilities(loaded, ids) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


@pytest.fixture
def loaded(causal_checkpoint):
    return load(causal_checkpoint())


class TestText:
    def test_every_token_is_scored_as_alone_whatever_the_batch(self, loaded):
        for batch_tokens in (1, 200, 8192):
            found = score_text(loaded, TEXTS, TextProtocol(batch_tokens=batch_tokens))
            expected, windows = [], []
            for index, item in enumerate(TEXTS.items):
                ids = loaded.tokenizer(item.text).input_ids
                rows = log_probabilities(loaded, ids)[:-1]
                expected += (-rows[range(len(ids) - 1), ids[1:]]).tolist()
                windows += [index] * (len(ids) - 1)
            np.testing.assert_allclose(found["nll"], expected, rtol=1e-4, atol=1e-5)
            assert found["window"].tolist() == found["cluster"].tolist() == windows

    def test_units_are_words_and_bytes(self, loaded):
        data = DataSet("d", (Text("zwei Wörter", 0), Text("one", 1)))
        assert score_text(loaded, data, TextProtocol())["units"].tolist() == [3, 12 + 3]

    @pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 8), (16, 1), (64, 64)])
    def test_windows_follow_the_protocol(self, loaded, context, stride):
        """Against the sliding window of the transformers documentation."""
        data = DataSet("d", (Text(PASSAGES[0].text, 0),))
        ids = loaded.tokenizer(PASSAGES[0].text).input_ids
        expected, predicted, done = [], [], 0
        for begin in range(0, len(ids), stride):
            end = min(begin + context, len(ids))
            rows = log_probabilities(loaded, ids[begin:end])
            for at in range(max(begin + 1, done), end):
                expected.append(-float(rows[at - begin - 1, ids[at]]))
                predicted.append(ids[at])
            done = end
            if end == len(ids):
                break
        found = score_text(loaded, data, TextProtocol(context=context, stride=stride))
        assert found["tokens"].tolist() == predicted
        np.testing.assert_allclose(found["nll"], expected, rtol=1e-4, atol=1e-5)
        assert found["cluster"].tolist() == found["window"].tolist()

    def test_windows_of_one_document_are_one_cluster_of_many(self, loaded):
        found = score_text(loaded, TEXTS, TextProtocol(context=16))
        assert found["window"].max() > found["cluster"].max() == len(TEXTS.items) - 1

    def test_a_table_that_would_fill_the_disk_is_refused(self, loaded, tmp_path, monkeypatch):
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(EvalError, match="1,000 free"):
            score_text(loaded, TEXTS, TextProtocol(), keep=tmp_path / "kept.npy")
        assert not list(tmp_path.glob("kept*"))

    def test_divergence_is_of_every_token_of_every_batch(self, loaded, causal_checkpoint, tmp_path):
        other = load(causal_checkpoint("other", seed=1))
        protocol = TextProtocol(batch_tokens=150)  # several batches
        score_text(loaded, TEXTS, protocol, keep=tmp_path / "kept.npy")
        found = score_text(other, TEXTS, protocol, reference=tmp_path / "kept.npy")
        js, forward, backward, agree = [], [], [], []
        for item in TEXTS.items:
            ids = loaded.tokenizer(item.text).input_ids
            log_p, log_q = (log_probabilities(side, ids)[:-1] for side in (loaded, other))
            for values, more in zip(
                (js, forward, backward), divergences(log_p, log_q), strict=True
            ):
                values += more.tolist()
            agree += (log_p.argmax(-1) == log_q.argmax(-1)).tolist()
        np.testing.assert_allclose(found["js"], js, rtol=1e-3)
        np.testing.assert_allclose(found["kl_forward"], forward, rtol=1e-3)
        np.testing.assert_allclose(found["kl_backward"], backward, rtol=1e-3)
        assert found["agree"].tolist() == agree
        assert found["js"].std() > 0.01

    def test_a_model_does_not_diverge_from_itself(self, loaded, tmp_path):
        score_text(loaded, TEXTS, TextProtocol(), keep=tmp_path / "kept.npy")
        found = score_text(loaded, TEXTS, TextProtocol(), reference=tmp_path / "kept.npy")
        assert not found["js"].any()
        assert not found["kl_forward"].any()
        assert found["agree"].all()

    def test_a_table_of_other_tokens_is_an_error(self, loaded, tmp_path):
        fewer = replace(TEXTS, items=TEXTS.items[:1])
        score_text(loaded, fewer, TextProtocol(), keep=tmp_path / "kept.npy")
        with pytest.raises(EvalError, match="tokenizer or the context differs"):
            score_text(loaded, TEXTS, TextProtocol(), reference=tmp_path / "kept.npy")

    def test_a_context_is_as_long_as_the_model_takes(self, loaded):
        found = score_text(loaded, TEXTS, TextProtocol(context=2048, stride=2048))
        assert found["windowing"].tolist() == [128, 128]

    @pytest.mark.parametrize(("context", "stride"), [(None, None), (16, 16), (16, 5)])
    def test_the_longest_document_is_told_however_it_is_cut(self, loaded, context, stride):
        found = score_text(loaded, TEXTS, TextProtocol(context=context, stride=stride))
        lengths = [len(loaded.tokenizer(item.text).input_ids) for item in TEXTS.items]
        assert found["longest"] == max(lengths)

    def test_a_prompt_and_its_response_are_as_long_as_both(self, loaded):
        data = DataSet("d", (Prompt("Where does Rufus live?", "Merrin", 0), Prompt("A", "b", 1)))
        found = score_text(loaded, data, TextProtocol())
        assert found["longest"] == len(loaded.tokenizer("Where does Rufus live? Merrin").input_ids)

    def test_too_short_a_text_is_an_error(self, loaded):
        with pytest.raises(EvalError, match="no text of two tokens"):
            score_text(loaded, DataSet("d", (Text("", 0),)), TextProtocol())


def test_generation_is_greedy_and_the_same_in_any_batch(loaded):
    prompts = [corpus.question_prompt(p.text[:90], p.questions[0].text) for p in PASSAGES]
    prompts += ["Question:", "Answer: the"]
    data = DataSet("d", tuple(Prompt(p, "", i) for i, p in enumerate(prompts)))
    protocol = GenerationProtocol(max_new_tokens=6)
    found = generate(loaded, data, protocol)["continuations"]
    alone = GenerationProtocol(max_new_tokens=6, batch_tokens=1)
    assert found.tolist() == generate(loaded, data, alone)["continuations"].tolist()
    for prompt, got in zip(prompts, found, strict=True):
        ids = loaded.tokenizer(prompt).input_ids
        start = len(ids)
        for _ in range(6):
            best = int(log_probabilities(loaded, ids)[-1].argmax())
            if best == loaded.tokenizer.eos_token_id:
                break
            ids.append(best)
        text = loaded.tokenizer.decode(ids[start:], skip_special_tokens=True)
        assert got == text.split("\n")[0].strip()


def test_a_prompt_without_room_for_its_answer_is_an_error(loaded):
    data = DataSet("d", (Prompt("a " * 100, "", 0),))
    with pytest.raises(EvalError, match=r"take \d+ tokens, but the context of model has 128"):
        generate(loaded, data, GenerationProtocol(max_new_tokens=32))


def test_logits_that_are_not_numbers_mark_their_prompt(loaded):
    """A weight that only one token reaches."""
    data = DataSet("d", (Prompt("Answer: Karsby", "", 0), Prompt("Answer: Velden", "", 1)))
    token = loaded.tokenizer(" Karsby", add_special_tokens=False).input_ids[-1]
    with torch.no_grad():
        loaded.model.config.tie_word_embeddings = False
        loaded.model.lm_head.weight = torch.nn.Parameter(loaded.model.lm_head.weight.clone())
        loaded.model.get_input_embeddings().weight[token] = torch.nan
    found = generate(loaded, data, GenerationProtocol(max_new_tokens=1))
    assert found["finite"].tolist() == [False, True]


def test_penalties_of_a_checkpoint_do_not_change_its_answers(causal_checkpoint):
    data = DataSet("d", (Prompt("Question: Where does", "", 0),))
    protocol = GenerationProtocol(max_new_tokens=12)
    plain = generate(load(causal_checkpoint()), data, protocol)["continuations"]
    checkpoint = causal_checkpoint("other")
    file = checkpoint.path / "generation_config.json"
    file.write_text('{"repetition_penalty": 9.0, "min_length": 50, "do_sample": true}')
    assert generate(load(checkpoint), data, protocol)["continuations"].tolist() == plain.tolist()


def test_positions_behind_a_padding_index_are_counted(tiny_encoder, classifier_checkpoint):
    bert, roberta = load(classifier_checkpoint), tiny_encoder("roberta")
    assert bert.max_tokens == 66
    assert Loaded(bert.checkpoint, roberta, bert.tokenizer).max_tokens == 65


def test_classes_are_scored_as_alone(classifier_checkpoint):
    loaded = load(classifier_checkpoint)
    texts = [corpus.review("calibration", index).text for index in range(9)] + ["x " * 100]
    data = DataSet("d", tuple(Labelled(text, 0, i) for i, text in enumerate(texts)))
    for batch_tokens in (1, 100, 9999):
        found = classify(loaded, data, ClassProtocol(batch_tokens))["log_probabilities"]
        for text, row in zip(texts, found, strict=True):
            ids = loaded.tokenizer(text, truncation=True, return_tensors="pt")
            with torch.no_grad():
                expected = F.log_softmax(loaded.model(**ids).logits[0], -1)
            np.testing.assert_allclose(row, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_single_output_is_no_classifier(classifier_checkpoint):
    loaded = load(classifier_checkpoint)
    loaded.model.classifier = torch.nn.Linear(32, 1)
    with pytest.raises(EvalError, match="has a single output"):
        classify(loaded, DataSet("d", (Labelled("x", 0, 0),)), ClassProtocol())


def test_speed_times_both_sides_of_every_pair(loaded):
    protocol = SpeedProtocol(looks=(5, 10), warmup=1, batch_tokens=128)
    seconds = time_pairs(loaded, loaded, TEXTS, protocol)["seconds"]
    assert seconds.shape == (5, 2)
    assert (seconds > 0).all()


def test_speed_is_timed_on_until_it_is_decided(loaded):
    """Of five pairs no interval has an end, and no model is a million times as fast as itself."""
    for limits, pairs in (((), 5), ((1e6,), 30), ((1e-6,), 15)):
        protocol = SpeedProtocol(looks=(5, 15, 30), batch_tokens=128)
        assert len(time_pairs(loaded, loaded, TEXTS, protocol, limits)["seconds"]) == pairs


def test_sides_take_turns_in_going_first(loaded, monkeypatch):
    order = []
    other = replace(loaded)
    monkeypatch.setattr(
        "compression_gates.evals.scoring.speed._forward_seconds",
        lambda side, ids: order.append(side is loaded) or 1.0,
    )
    time_pairs(loaded, other, TEXTS, SpeedProtocol(looks=(4,), warmup=0))
    assert order in ([True, False, False, True] * 2, [False, True, True, False] * 2)
