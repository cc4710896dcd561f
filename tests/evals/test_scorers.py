"""Scorers against plain transformers with one item at a time."""

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
from compression_gates.evals.scoring.baseline_files import BaselineFiles
from compression_gates.evals.scoring.classes import classify
from compression_gates.evals.scoring.generation import generate
from compression_gates.evals.scoring.protocols import (
    ClassProtocol,
    DecodeProtocol,
    GenerationProtocol,
    SpeedProtocol,
    TextProtocol,
)
from compression_gates.evals.scoring.speed import time_decoding, time_pairs, timed_batch
from compression_gates.evals.scoring.text import score_text
from compression_gates.fixtures.world import corpus

PASSAGES = [corpus.passage("calibration", index) for index in range(7)]
TEXTS = DataSet("texts", tuple(Text(p.text[: 60 * (i + 1)], i) for i, p in enumerate(PASSAGES)))


def log_probabilities(loaded, ids) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def kept(folder) -> BaselineFiles:
    return BaselineFiles(folder / "kept.npy", folder / "head.npy")


@pytest.fixture
def loaded(causal_checkpoint):
    return load(causal_checkpoint())


class TestText:
    def test_scores_do_not_depend_on_the_batch(self, loaded):
        for batch_tokens in (1, 200, 8192):
            result = score_text(loaded, TEXTS, TextProtocol(batch_tokens=batch_tokens))
            expected, windows = [], []
            for index, item in enumerate(TEXTS.items):
                ids = loaded.tokenizer(item.text).input_ids
                rows = log_probabilities(loaded, ids)[:-1]
                expected += (-rows[range(len(ids) - 1), ids[1:]]).tolist()
                windows += [index] * (len(ids) - 1)
            np.testing.assert_allclose(result["nll"], expected, rtol=1e-4, atol=1e-5)
            assert result["window"].tolist() == result["cluster"].tolist() == windows

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
        result = score_text(loaded, data, TextProtocol(context=context, stride=stride))
        assert result["tokens"].tolist() == predicted
        np.testing.assert_allclose(result["nll"], expected, rtol=1e-4, atol=1e-5)
        assert result["cluster"].tolist() == result["window"].tolist()

    def test_windows_of_one_document_are_one_cluster(self, loaded):
        result = score_text(loaded, TEXTS, TextProtocol(context=16))
        assert result["window"].max() > result["cluster"].max() == len(TEXTS.items) - 1

    def test_error_if_the_table_does_not_fit_on_the_disk(self, loaded, tmp_path, monkeypatch):
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(EvalError, match="1,000 free"):
            score_text(loaded, TEXTS, TextProtocol(), keep=kept(tmp_path))
        assert not list(tmp_path.glob("kept*"))

    def test_divergence_of_every_token_of_every_batch(self, loaded, causal_checkpoint, tmp_path):
        other = load(causal_checkpoint("other", seed=1))
        protocol = TextProtocol(batch_tokens=150)  # several batches
        score_text(loaded, TEXTS, protocol, keep=kept(tmp_path))
        result = score_text(other, TEXTS, protocol, reference=kept(tmp_path))
        js, forward, backward, agree = [], [], [], []
        for item in TEXTS.items:
            ids = loaded.tokenizer(item.text).input_ids
            log_p, log_q = (log_probabilities(side, ids)[:-1] for side in (loaded, other))
            for values, more in zip(
                (js, forward, backward), divergences(log_p, log_q), strict=True
            ):
                values += more.tolist()
            agree += (log_p.argmax(-1) == log_q.argmax(-1)).tolist()
        np.testing.assert_allclose(result["js"], js, rtol=1e-3)
        np.testing.assert_allclose(result["kl_forward"], forward, rtol=1e-3)
        np.testing.assert_allclose(result["kl_backward"], backward, rtol=1e-3)
        assert result["agree"].tolist() == agree
        assert result["js"].std() > 0.01

    def test_model_does_not_diverge_from_itself(self, loaded, tmp_path):
        score_text(loaded, TEXTS, TextProtocol(), keep=kept(tmp_path))
        result = score_text(loaded, TEXTS, TextProtocol(), reference=kept(tmp_path))
        assert not result["js"].any()
        assert not result["kl_forward"].any()
        assert result["agree"].all()

    def test_error_if_the_table_has_other_tokens(self, loaded, tmp_path):
        fewer = replace(TEXTS, items=TEXTS.items[:1])
        score_text(loaded, fewer, TextProtocol(), keep=kept(tmp_path))
        with pytest.raises(EvalError, match="tokenizer or the context differs"):
            score_text(loaded, TEXTS, TextProtocol(), reference=kept(tmp_path))

    def test_context_is_limited_by_the_model(self, loaded):
        result = score_text(loaded, TEXTS, TextProtocol(context=2048, stride=2048))
        assert result["windowing"].tolist() == [128, 128]

    @pytest.mark.parametrize(("context", "stride"), [(None, None), (16, 16), (16, 5)])
    def test_longest_document_does_not_depend_on_the_windows(self, loaded, context, stride):
        result = score_text(loaded, TEXTS, TextProtocol(context=context, stride=stride))
        lengths = [len(loaded.tokenizer(item.text).input_ids) for item in TEXTS.items]
        assert result["longest"] == max(lengths)

    def test_length_of_a_prompt_with_its_response(self, loaded):
        data = DataSet("d", (Prompt("Where does Rufus live?", "Merrin", 0), Prompt("A", "b", 1)))
        result = score_text(loaded, data, TextProtocol())
        assert result["longest"] == len(loaded.tokenizer("Where does Rufus live? Merrin").input_ids)

    def test_error_if_the_text_is_too_short(self, loaded):
        with pytest.raises(EvalError, match="no text of two tokens"):
            score_text(loaded, DataSet("d", (Text("", 0),)), TextProtocol())


def test_generation_is_greedy_and_does_not_depend_on_the_batch(loaded):
    prompts = [corpus.question_prompt(p.text[:90], p.questions[0].text) for p in PASSAGES]
    prompts += ["Question:", "Answer: the"]
    data = DataSet("d", tuple(Prompt(p, "", i) for i, p in enumerate(prompts)))
    protocol = GenerationProtocol(max_new_tokens=6)
    result = generate(loaded, data, protocol)["continuations"]
    alone = GenerationProtocol(max_new_tokens=6, batch_tokens=1)
    assert result.tolist() == generate(loaded, data, alone)["continuations"].tolist()
    for prompt, got in zip(prompts, result, strict=True):
        ids = loaded.tokenizer(prompt).input_ids
        start = len(ids)
        for _ in range(6):
            best = int(log_probabilities(loaded, ids)[-1].argmax())
            if best == loaded.tokenizer.eos_token_id:
                break
            ids.append(best)
        text = loaded.tokenizer.decode(ids[start:], skip_special_tokens=True)
        assert got == text.split("\n")[0].strip()


@pytest.mark.parametrize(("difference", "is_near"), [(0.0, True), (1e-5, True), (0.1, False)])
def test_near_ties_of_the_two_best_tokens_are_marked(loaded, difference, is_near):
    """The head gives two tokens the same logit, up to the difference, and others none."""
    with torch.no_grad():
        head = torch.nn.Linear(loaded.model.config.hidden_size, 576)
        head.weight.zero_()
        head.bias.zero_()
        head.bias[[300, 301]] = torch.tensor([50.0, 50.0 - difference])
        loaded.model.lm_head = head
    data = DataSet("d", (Prompt("Answer:", "", 0), Prompt("Question: Where?", "", 1)))
    result = generate(loaded, data, GenerationProtocol(max_new_tokens=2))
    assert result["near_ties"].tolist() == [is_near] * 2


def test_steps_after_the_end_of_an_answer_are_no_near_ties(loaded):
    """Both prompts are in a batch; one ends with its first token, before the tie."""
    data = DataSet("d", (Prompt("Answer: Karsby", "", 0), Prompt("Answer: Velden", "", 1)))
    last = [loaded.tokenizer(item.prompt).input_ids[-1] for item in data.items]
    eos = loaded.eos_token_ids[0]

    def logits(module, args, kwargs, output):
        ids = kwargs["input_ids"][:, -1]
        scores = torch.zeros_like(output.logits)
        scores[:, -1, 300:302] = 50.0  # a tie
        scores[ids == last[0], -1, eos] = 90.0
        scores[ids == last[1], -1, 305] = 90.0
        scores[ids == 305, -1, eos] = 90.0
        output.logits = scores
        return output

    loaded.model.register_forward_hook(logits, with_kwargs=True)
    result = generate(loaded, data, GenerationProtocol(max_new_tokens=6))
    assert not result["near_ties"].any()


def test_steps_after_a_stop_of_several_tokens_do_not_count(loaded):
    """Both prompts are in a batch; one is stopped by its second token, before the tie, and before
    padding, for which the logits are NaN."""
    data = DataSet("d", (Prompt("Answer: Karsby", "", 0), Prompt("Answer: Velden", "", 1)))
    last = [loaded.tokenizer(item.prompt).input_ids[-1] for item in data.items]
    stop = "END."
    first, *middle, end = loaded.tokenizer(stop, add_special_tokens=False).input_ids
    follows = {last[0]: first, last[1]: 305, 305: 306, 306: 307, 307: 308, 308: 309}
    follows |= dict(zip((first, *middle), (*middle, end), strict=True))
    padding = loaded.tokenizer.pad_token_id
    assert not {padding, 305, 306, 307, 308, 309} & {first, *middle, end}

    def logits(module, args, kwargs, output):
        scores = torch.zeros_like(output.logits)
        scores[:, -1, 300:302] = 50.0  # a tie
        for token, following in follows.items():
            scores[kwargs["input_ids"][:, -1] == token, -1, following] = 90.0
        scores[kwargs["input_ids"][:, -1] == padding, -1] = torch.nan
        output.logits = scores
        return output

    loaded.model.register_forward_hook(logits, with_kwargs=True)
    together = generate(loaded, data, GenerationProtocol(max_new_tokens=5, stop=stop))
    assert together["ended"].tolist() == [True, False]
    assert not together["near_ties"].any()
    assert together["finite"].all()


def test_error_if_a_prompt_leaves_no_room_for_its_answer(loaded):
    data = DataSet("d", (Prompt("a " * 100, "", 0),))
    with pytest.raises(EvalError, match=r"take \d+ tokens, but the context of model has 128"):
        generate(loaded, data, GenerationProtocol(max_new_tokens=32))


def test_prompt_with_nan_logits_is_marked(loaded):
    """The NaN is in the embedding of a token that only one prompt contains."""
    data = DataSet("d", (Prompt("Answer: Karsby", "", 0), Prompt("Answer: Velden", "", 1)))
    token = loaded.tokenizer(" Karsby", add_special_tokens=False).input_ids[-1]
    with torch.no_grad():
        loaded.model.config.tie_word_embeddings = False
        loaded.model.lm_head.weight = torch.nn.Parameter(loaded.model.lm_head.weight.clone())
        loaded.model.get_input_embeddings().weight[token] = torch.nan
    result = generate(loaded, data, GenerationProtocol(max_new_tokens=1))
    assert result["finite"].tolist() == [False, True]


def test_generation_penalties_of_a_checkpoint_are_ignored(causal_checkpoint):
    data = DataSet("d", (Prompt("Question: Where does", "", 0),))
    protocol = GenerationProtocol(max_new_tokens=12)
    plain = generate(load(causal_checkpoint()), data, protocol)["continuations"]
    checkpoint = causal_checkpoint("other")
    file = checkpoint.path / "generation_config.json"
    file.write_text('{"repetition_penalty": 9.0, "min_length": 50, "do_sample": true}')
    assert generate(load(checkpoint), data, protocol)["continuations"].tolist() == plain.tolist()


def test_positions_after_a_padding_index_are_counted(tiny_encoder, classifier_checkpoint):
    bert, roberta = load(classifier_checkpoint), tiny_encoder("roberta")
    assert bert.max_tokens == 66
    assert Loaded(bert.checkpoint, roberta, bert.tokenizer).max_tokens == 65


def test_class_scores_do_not_depend_on_the_batch(classifier_checkpoint):
    loaded = load(classifier_checkpoint)
    texts = [corpus.review("calibration", index).text for index in range(9)] + ["x " * 100]
    data = DataSet("d", tuple(Labelled(text, 0, i) for i, text in enumerate(texts)))
    for batch_tokens in (1, 100, 9999):
        result = classify(loaded, data, ClassProtocol(batch_tokens))["log_probabilities"]
        for text, row in zip(texts, result, strict=True):
            ids = loaded.tokenizer(text, truncation=True, return_tensors="pt")
            with torch.no_grad():
                expected = F.log_softmax(loaded.model(**ids).logits[0], -1)
            np.testing.assert_allclose(row, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_error_for_a_single_output(classifier_checkpoint):
    loaded = load(classifier_checkpoint)
    loaded.model.classifier = torch.nn.Linear(32, 1)
    with pytest.raises(EvalError, match="has a single output"):
        classify(loaded, DataSet("d", (Labelled("x", 0, 0),)), ClassProtocol())


def test_both_sides_of_every_pair_are_timed(loaded):
    protocol = SpeedProtocol(looks=(5, 10), warmup=1, batch_tokens=128)
    seconds = time_pairs(loaded, loaded, TEXTS, protocol)["seconds"]
    assert seconds.shape == (5, 2)
    assert (seconds > 0).all()


def test_timing_continues_until_it_is_decided(loaded):
    """Five pairs give no finite interval, and a speedup of 1e6 can never be proven."""
    for limits, pairs in (((), 5), ((1e6,), 30), ((1e-6,), 15)):
        protocol = SpeedProtocol(looks=(5, 15, 30), batch_tokens=128)
        assert len(time_pairs(loaded, loaded, TEXTS, protocol, limits)["seconds"]) == pairs


def test_order_of_the_sides_alternates(loaded, monkeypatch):
    order = []
    other = replace(loaded)
    monkeypatch.setattr(
        "compression_gates.evals.scoring.speed._forward_seconds",
        lambda side, ids: order.append(side is loaded) or 1.0,
    )
    time_pairs(loaded, other, TEXTS, SpeedProtocol(looks=(4,), warmup=0, single=0))
    alternating = [True, False, False, True] * 2, [False, True, True, False] * 2
    assert order[:8] in alternating


def test_decoding_is_timed_token_by_token(loaded):
    protocol = DecodeProtocol(looks=(3,), batch_tokens=20, steps=4, rows=3, single=2)
    times = time_decoding(loaded, loaded, TEXTS, protocol)
    assert {name: array.shape for name, array in times.items()} == {
        "seconds": (3, 2), "first": (3, 2), "batch": (2, 2)
    }  # fmt: skip
    assert all((array > 0).all() for array in times.values())


def test_rows_of_a_causal_model_are_long_prompts(loaded):
    rows, tokens = timed_batch(loaded, TEXTS, 256).shape
    limit = min(loaded.max_tokens, loaded.tokenizer.model_max_length, 512)
    joined = sum(len(loaded.tokenizer(item.text).input_ids) for item in TEXTS.items)
    assert tokens == min(limit, joined, 256)
    assert rows == 256 // tokens
