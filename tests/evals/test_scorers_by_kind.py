"""Scorers of readers, encoder-decoders and chat models against plain transformers."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compression_gates.evals.checkpoints.checkpoint import EXTRACTIVE, SEQ2SEQ, open_checkpoint
from compression_gates.evals.data.items import DataSet, Prompt, ProtocolOverrides, Question, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.perplexity import perplexity, perplexity_drift
from compression_gates.evals.metrics.prediction_divergence import js_divergence
from compression_gates.evals.metrics.result import Scored
from compression_gates.evals.models.loading import load
from compression_gates.evals.scoring.answers import Window, _best_span, encode_questions, extract
from compression_gates.evals.scoring.baseline_files import BaselineFiles
from compression_gates.evals.scoring.generation import generate
from compression_gates.evals.scoring.prompts import encode_prompts
from compression_gates.evals.scoring.protocols import (
    ExtractionProtocol,
    GenerationProtocol,
    TextProtocol,
)
from compression_gates.evals.scoring.text import score_text
from compression_gates.evals.store.measurement import Measurement
from compression_gates.fixtures.experiments.finetune import ends_of
from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world import tokenizers as vocabulary
from compression_gates.fixtures.world.shipped import MODELS

CONTEXT = corpus.passage("held-out", 0).text
QUESTIONS = DataSet(
    "questions",
    tuple(
        Question(question.text, corpus.passage("held-out", i).text, question.answer, i)
        for i in range(3)
        for question in corpus.passage("held-out", i).questions[:2]
    ),
)
PROMPTS = DataSet(
    "prompts",
    tuple(Prompt(f"Where does {name} live?", place, i)
          for i, (name, place) in enumerate([("Rufus", "Haxby"), ("Lena Vance", "Merrin Tarn")])),
)  # fmt: skip


@pytest.fixture
def reader(bert_config, tmp_path):
    """A random extractive BERT."""
    from transformers import BertForQuestionAnswering

    tokenizer = vocabulary.wordpiece(64)
    torch.manual_seed(0)
    config = bert_config(tokenizer, max_position_embeddings=64, initializer_range=0.5)
    BertForQuestionAnswering(config).save_pretrained(tmp_path / "reader")
    tokenizer.save_pretrained(tmp_path / "reader")
    return open_checkpoint(tmp_path / "reader")


@pytest.fixture
def translator(tmp_path):
    """A random T5."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = vocabulary.causal(64)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=576, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, pad_token_id=0,
        decoder_start_token_id=0, eos_token_id=2, initializer_factor=3.0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "translator")
    tokenizer.save_pretrained(tmp_path / "translator")
    return open_checkpoint(tmp_path / "translator")


class TestExtraction:
    def test_the_kind_is_read_from_the_configuration(self, reader):
        assert reader.kind == EXTRACTIVE

    def test_answers_are_the_best_spans_of_all_windows(self, reader):
        loaded = load(reader)
        protocol = ExtractionProtocol(length=48, stride=12, longest=5, batch_tokens=100)
        result = extract(loaded, QUESTIONS, protocol)
        for index, item in enumerate(QUESTIONS.items):
            encoded = loaded.tokenizer(
                item.question, item.context, truncation="only_second", max_length=48, stride=12,
                return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors="pt",
                padding=True,
            )  # fmt: skip
            best = (-math.inf, "")
            for row in range(len(encoded["input_ids"])):
                with torch.inference_mode():
                    out = loaded.model(
                        encoded["input_ids"][row : row + 1],
                        attention_mask=encoded["attention_mask"][row : row + 1],
                    )
                sequence = encoded.sequence_ids(row)
                for i, start in enumerate(out.start_logits[0].tolist()):
                    for j, end in enumerate(out.end_logits[0].tolist()):
                        inside = sequence[i] == sequence[j] == 1
                        if inside and 0 <= j - i < 5 and start + end > best[0]:
                            first = encoded["offset_mapping"][row][i][0]
                            last = encoded["offset_mapping"][row][j][1]
                            best = (start + end, item.context[first:last])
            assert result["continuations"][index] == best[1]
        assert result["finite"].all()
        sums = np.exp(result["log_probabilities"]).sum(1)
        assert sums == pytest.approx(np.ones(len(sums)), abs=1e-5)

    def test_model_does_not_diverge_from_itself(self, reader):
        arrays = extract(load(reader), QUESTIONS, ExtractionProtocol(length=48, stride=12))
        scored = Scored(QUESTIONS, Measurement(arrays, {}))
        result = js_divergence(scored, scored).estimate
        assert result.value == 0.0
        assert result.clusters == 3
        assert result.n == len(arrays["item"])

    def test_start_and_end_tokens_cover_the_answer(self, reader):
        tokenizer = load(reader).tokenizer
        seen = 0
        for window in encode_questions(QUESTIONS, tokenizer, 48, 12):
            item = QUESTIONS.items[window.item]
            first, last = ends_of(window, item)
            if (first, last) != (0, 0):
                seen += 1
                start, stop = window.offsets[first][0], window.offsets[last][1]
                assert item.context[start:stop] == item.expected
        assert seen >= len(QUESTIONS.items)

    def test_span_is_ordered_and_inside_the_context(self):
        offsets = [None, (0, 2), (3, 5), (6, 9), None]
        ends = np.zeros((2, 5))
        ends[0] = [9, 0, 5, 1, 9]
        ends[1] = [9, 6, 2, 3, 9]
        # The best start is token 2 and the best end is token 1, which is not a span.
        result = _best_span(ends, Window([0] * 5, None, 0, offsets), longest=2)
        assert result == (8.0, (3, 9))

    def test_nan_logits_give_no_answer(self):
        window = Window([0] * 3, None, 0, [None, (0, 2), (3, 5)])
        assert _best_span(np.full((2, 3), np.nan), window, 5) is None


class TestEncoderDecoder:
    def test_responses_are_predicted_from_the_encoded_prompt(self, translator):
        assert translator.kind == SEQ2SEQ
        loaded = load(translator)
        result = score_text(loaded, PROMPTS, TextProtocol())
        expected = []
        for item in PROMPTS.items:
            ids = loaded.tokenizer(item.prompt, return_tensors="pt").input_ids
            target = loaded.tokenizer(item.expected, return_tensors="pt").input_ids
            with torch.inference_mode():
                logits = loaded.model(input_ids=ids, labels=target).logits
            expected += F.cross_entropy(logits[0], target[0], reduction="none").tolist()
        assert result["nll"].tolist() == pytest.approx(expected, rel=1e-4)
        assert result["units"].tolist() == [3, len("HaxbyMerrin Tarn")]

    def test_answers_equal_those_of_transformers(self, translator):
        loaded = load(translator)
        result = generate(loaded, PROMPTS, GenerationProtocol(max_new_tokens=8))
        for item, text in zip(PROMPTS.items, result["continuations"], strict=True):
            ids = loaded.tokenizer(item.prompt, return_tensors="pt").input_ids
            out = loaded.model.generate(
                input_ids=ids, max_new_tokens=8, do_sample=False, decoder_start_token_id=0,
                eos_token_id=2, pad_token_id=0,
            )  # fmt: skip
            whole = loaded.tokenizer.decode(out[0, 1:], skip_special_tokens=True)
            assert text == whole.partition("\n")[0].strip()

    def test_side_by_side_equals_files(self, translator, tmp_path):
        loaded = load(translator)
        files = BaselineFiles(tmp_path / "rows.npy", tmp_path / "head.npy")
        score_text(loaded, PROMPTS, TextProtocol(), keep=files)
        by_table = score_text(loaded, PROMPTS, TextProtocol(), reference=files)
        beside = score_text(loaded, PROMPTS, TextProtocol(), reference=loaded)
        for name in ("js", "kl_forward", "kl_backward", "tv", "agree", "nll"):
            assert np.array_equal(by_table[name], beside[name])


def better_than_chance(data, arrays):
    """Scored data of a random model, marked as better than chance."""
    return Scored(data, Measurement({**arrays, "nll": arrays["nll"] / 10}, {}))


class TestResponses:
    """The loss of a causal model on a prompt with a response is that of the response."""

    def test_prompt_is_not_predicted(self, causal_checkpoint):
        loaded = load(causal_checkpoint())
        result = score_text(loaded, PROMPTS, TextProtocol())
        expected = []
        for item in PROMPTS.items:
            prompt = loaded.tokenizer(item.prompt).input_ids
            answer = loaded.tokenizer(f" {item.expected}", add_special_tokens=False).input_ids
            ids = torch.tensor([prompt + answer])
            with torch.inference_mode():
                log_p = loaded.model(input_ids=ids).logits[0].log_softmax(-1)
            expected += [-log_p[len(prompt) - 1 + i, t].item() for i, t in enumerate(answer)]
        assert result["nll"].tolist() == pytest.approx(expected, abs=1e-4)
        scored = better_than_chance(PROMPTS, result)
        protocol = perplexity_drift(scored, scored).protocol
        assert protocol.startswith("per token on prompts, the responses")

    def test_error_names_the_prompt_that_does_not_fit(self, causal_checkpoint):
        data = DataSet("long", (Prompt("a " * 100, "b " * 100, 0),))
        with pytest.raises(EvalError, match="data set long: prompt 1 and its response are longer"):
            score_text(load(causal_checkpoint()), data, TextProtocol())


class TestProtocols:
    def test_short_last_window_is_dropped(self, causal_checkpoint):
        """As in the evaluations of GPTQ and SparseGPT: numel // length separate windows."""
        loaded = load(causal_checkpoint())
        text = "".join(corpus.passage("held-out", i).text + "\n\n" for i in range(3))
        data = DataSet("joined", (Text(text, 0),), ProtocolOverrides(tail="drop"))
        result = score_text(loaded, data, TextProtocol(context=32, stride=32, tail="drop"))
        ids = loaded.tokenizer(text, return_tensors="pt", verbose=False).input_ids
        count, total = ids.numel() // 32, 0.0
        for i in range(count):
            batch = ids[:, i * 32 : (i + 1) * 32]
            with torch.inference_mode():
                logits = loaded.model(input_ids=batch).logits
            loss = F.cross_entropy(logits[0, :-1], batch[0, 1:])
            total += loss.item() * 32
        assert perplexity(result["nll"]) == pytest.approx(math.exp(total / (count * 32)), rel=1e-4)
        assert len(result["nll"]) == count * 31
        scored = better_than_chance(data, result)
        assert "the last one left out" in perplexity_drift(scored, scored).protocol

    def test_error_if_text_is_shorter_than_a_window(self, causal_checkpoint):
        data = DataSet("short", (Text("Rufus lives here.", 0),))
        with pytest.raises(EvalError, match="data set short: no text of 64 tokens"):
            score_text(load(causal_checkpoint()), data, TextProtocol(context=64, tail="drop"))

    def test_answer_ends_before_stop_text_of_several_tokens(self):
        loaded = load(open_checkpoint(MODELS / "llama-tiny"))
        passage = corpus.passage("held-out", 0)
        data = DataSet("d", (Prompt(corpus.summary_prompt(passage.text), passage.summary, 0),))
        free = str(generate(loaded, data, GenerationProtocol())["continuations"][0])
        cut = generate(loaded, data, GenerationProtocol(stop=" owns a"))["continuations"][0]
        assert cut == free.partition(" owns a")[0] != free

    def test_extract_selects_the_compared_part(self, causal_checkpoint):
        loaded = load(causal_checkpoint())
        whole = generate(loaded, PROMPTS, GenerationProtocol())["continuations"]
        result = generate(loaded, PROMPTS, GenerationProtocol(extract=r"(\w)"))["continuations"]
        last = [[c for c in text if c.isalnum() or c == "_"][-1:] for text in map(str, whole)]
        assert [list(text) for text in result] == last


CHAT = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


class TestChat:
    def test_prompt_is_the_turn_of_the_user(self, causal_checkpoint):
        loaded = load(causal_checkpoint())
        loaded.tokenizer.chat_template = CHAT
        ids = encode_prompts(loaded, PROMPTS, chat=True)
        text = loaded.tokenizer.decode(ids[0], skip_special_tokens=False)
        assert text.count("<s>") == 1  # the tokenizer adds no second one
        assert text.replace("<s>", "").strip() == "user: Where does Rufus live?\nassistant:"

    def test_error_without_chat_template(self, causal_checkpoint):
        loaded = load(causal_checkpoint())
        loaded.tokenizer.chat_template = None
        with pytest.raises(EvalError, match="sets chat = true, but model has no chat template"):
            encode_prompts(loaded, PROMPTS, chat=True)

    def test_shipped_model_answers_with_its_chat_template(self):
        loaded = load(open_checkpoint(MODELS / "llama-tiny"))
        items = []
        for index in range(8):
            passage = corpus.passage("held-out", index)
            question = passage.questions[0]
            asked = f"{passage.text}\nQuestion: {question.text}"
            items.append(Prompt(asked, question.answer, index))
        result = generate(loaded, DataSet("chat", tuple(items)), GenerationProtocol(chat=True))
        assert result["continuations"].tolist() == [item.expected for item in items]


class TestOffload:
    def test_offloaded_weights_are_scored(self, causal_checkpoint):
        """The device ``auto`` offloads layers that do not fit into GPU memory."""
        from accelerate import cpu_offload

        from compression_gates.evals.scoring.footprint import footprint

        loaded = load(causal_checkpoint())
        before = score_text(loaded, PROMPTS, TextProtocol())["nll"]
        cpu_offload(loaded.model, torch.device("cpu"))
        assert loaded.device.type == "cpu"
        assert score_text(loaded, PROMPTS, TextProtocol())["nll"] == pytest.approx(before)
        assert footprint(loaded)["weights"] == 0  # offloaded weights are not counted


def test_error_names_the_question_that_leaves_no_room(reader):
    data = DataSet("d", (Question("who " * 20, CONTEXT, "x", 0),))
    with pytest.raises(EvalError, match="data set d: question 1 takes 62 tokens of a window of 64"):
        extract(load(reader), data, ExtractionProtocol(length=64))


def test_long_questions_reduce_the_overlap(reader):
    data = DataSet("d", (Question("who " * 10, CONTEXT, "x", 0),))
    result = extract(load(reader), data, ExtractionProtocol(length=64, stride=60))
    assert len(result["item"]) > 2


def test_prompts_of_one_document_share_a_cluster(causal_checkpoint):
    items = tuple(Prompt(f"Where does {n} live?", "Haxby", i // 2) for i, n in enumerate("ABCD"))
    result = score_text(load(causal_checkpoint()), DataSet("d", items), TextProtocol())
    assert set(result["cluster"].tolist()) == {0, 1}


def test_no_word_perplexity_with_dropped_tail(causal_checkpoint):
    text = corpus.passage("held-out", 0).text
    for tail, counted in (("keep", True), ("drop", False)):
        data = DataSet("d", (Text(text, 0),), ProtocolOverrides(tail=tail))
        protocol = TextProtocol(context=32, stride=32, tail=tail)
        scored = better_than_chance(data, score_text(load(causal_checkpoint()), data, protocol))
        assert ("word_perplexity" in perplexity_drift(scored, scored).facts) == counted
