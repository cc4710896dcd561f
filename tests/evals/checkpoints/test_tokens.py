"""What differs between two checkpoints is told in a line before either is scored."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AutoTokenizer

from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.checkpoints.compare import Sides, compare
from compression_gates.evals.checkpoints.encoding import token_difference
from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.data.items import DataSet, Prompt, Text

REFUSED, FAILED = Severity.REFUSED, Severity.FAILED
DATA = DataSet("texts", (Text("Rufus lives in Merrin.", 0), Text("Lena owns a steel drum.", 1)))


def problem(one, two):
    sides = Sides(open_checkpoint(one.path), open_checkpoint(two.path), [DATA])
    found = "; ".join(found.text for found in compare(sides).findings)
    assert "\n" not in found
    return found


def rewrite(checkpoint, name, change):
    file = checkpoint.path / name
    described = json.loads(file.read_text())
    change(described)
    file.write_text(json.dumps(described))


@pytest.fixture
def pair(causal_checkpoint):
    return causal_checkpoint("one"), causal_checkpoint("two", seed=1)


def test_two_models_with_one_tokenizer(pair):
    assert problem(*pair) == ""


def test_two_tokens_that_are_swapped(pair):
    def swap(described):
        words = described["model"]["vocab"]
        places = [i for i, (word, _) in enumerate(words) if word in ("\u2581lives", "\u2581owns")]
        one, two = places
        words[one], words[two] = words[two], words[one]

    rewrite(pair[1], "tokenizer.json", swap)
    found = problem(*pair)
    assert found.startswith("the tokenizers differ: token ")
    assert "of 'Rufus lives in Merrin.' in texts is '\u2581lives' (" in found
    assert "for the baseline and '\u2581lives' (" in found  # the same word has another id


def test_a_first_token_that_is_lost(pair):
    rewrite(pair[1], "tokenizer.json", lambda t: t.update(post_processor=None))
    assert "token 1 of 'Rufus lives in Merrin.' in texts is '<s>' (1)" in problem(*pair)


def test_another_end(pair):
    rewrite(pair[1], "tokenizer_config.json", lambda t: t.update(eos_token="<unk>"))
    told = "the eos token is '</s>' (2) for the baseline and '<unk>' (0) for the candidate"
    assert problem(*pair) == told


def test_padding_is_masked_whichever_token_it_is(pair):
    rewrite(pair[1], "tokenizer_config.json", lambda t: t.update(pad_token="<unk>"))
    told = "the padding token is '</s>' for the baseline and '<unk>' for the candidate"
    assert problem(*pair) == told


def test_a_shorter_context(causal_checkpoint):
    one = causal_checkpoint("one")
    two = causal_checkpoint("two", max_position_embeddings=64)
    assert problem(one, two) == "the candidate accepts at most 64 tokens, the baseline 128"
    assert problem(two, one) == "the candidate is said to take 128 tokens, the baseline 64"


def refusals(made, *data):
    return [text for severity, text in made.findings(*data).values() if severity == REFUSED]


CHANGES = {
    "digits": ("roberta-tiny", lambda t: t.update(pre_tokenizer={
        "type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, t["pre_tokenizer"]]})),
    "spaces": ("roberta-tiny", lambda t: t.update(normalizer={
        "type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})),
    "spaces around": ("llama-tiny", lambda t: t.update(normalizer={
        "type": "Sequence", "normalizers": [
            {"type": "Strip", "strip_left": True, "strip_right": True}, t["normalizer"]]})),
    "accents": ("bert-tiny", lambda t: t["normalizer"].update(strip_accents=False)),
    "capitals": ("albert-tiny", lambda t: t.update(normalizer=None)),
    "Chinese": ("bert-tiny", lambda t: t["normalizer"].update(handle_chinese_chars=False)),
    "long word": ("bert-tiny", lambda t: t["model"].update(max_input_chars_per_word=400)),
    "control characters": ("bert-tiny", lambda t: t["normalizer"].update(clean_text=False)),
    "combining marks": ("roberta-tiny", lambda t: t.update(normalizer={"type": "NFC"})),
    "compatibility characters": (
        "roberta-tiny", lambda t: t.update(normalizer={"type": "NFKC"})),
    "emoji": ("llama-tiny", lambda t: t["model"].update(byte_fallback=False)),
    "line ends": ("roberta-tiny", lambda t: t.update(normalizer={
        "type": "Replace", "pattern": {"String": "\r\n"}, "content": "\n"})),
    "'<s>' in text": ("llama-tiny", lambda t: t["added_tokens"][1].update(rstrip=True)),
}  # fmt: skip


def learn_twelve(described):
    described["model"]["vocab"]["12"] = 640
    described["model"]["merges"].append(["1", "2"])


class TestStress:
    """What the data do not show, fixed texts do."""

    @pytest.mark.parametrize("name", CHANGES)
    def test_each_kind_of_text_is_told(self, copies, name):
        model, change = CHANGES[name]
        made = copies(model)
        if name == "digits":
            made.change("tokenizer.json", learn_twelve, both=True)
        for place in (made.base, made.candidate):
            (place / "chat_template.jinja").unlink(missing_ok=True)
        made.change("tokenizer.json", change)
        plain = DataSet("plain", (Text("the film is good", 0),))
        found = made.findings(plain)
        severity, text = found["stress text"]
        assert severity == FAILED
        assert text.startswith("the tokenizers differ on ")
        assert not refusals(made, plain)
        if name in ("spaces", "Chinese", "accents", "long word", "control characters"):
            assert name in text

    def test_the_same_text_in_the_data_is_refused(self, copies):
        made = copies("bert-tiny")
        made.change("tokenizer.json", lambda t: t["normalizer"].update(lowercase=False))
        (told, *_) = refusals(made)
        assert told.startswith("the tokenizers differ: token ")

    def test_expected_answers_are_data(self, copies):
        made = copies("roberta-tiny")
        made.change("tokenizer.json", lambda t: t.update(normalizer={
            "type": "Replace", "pattern": {"String": "9"}, "content": "8"}))  # fmt: skip
        asked = DataSet("asked", (Prompt("How many?", "99", 0),))
        (told,) = refusals(made, asked)
        assert "of '99' in asked" in told

    def test_a_text_that_the_candidate_cannot_take(self, copies):
        made = copies("bert-tiny")
        made.change("tokenizer.json", lambda t: t["model"].update(unk_token="[none]"))
        found = made.findings(DataSet("plain", (Text("the film is good", 0),)))
        severity, text = found["stress text"]
        assert severity == FAILED
        assert "the candidate's tokenizer fails on" in text

    def test_two_texts_as_one_input(self, copies):
        """Token types tell a BERT which of two texts is which."""
        made = copies("bert-tiny")
        names = ["input_ids", "token_type_ids", "attention_mask"]
        made.swapped().change("tokenizer_config.json", lambda t: t.update(model_input_names=names))
        ((kind, (severity, text)),) = made.findings().items()
        assert (kind, severity) == ("stress text", FAILED)
        assert "token_type_ids of two texts as one input" in text


class TestDecoding:
    """The same tokens are the same text."""

    @pytest.mark.parametrize(
        ("model", "file", "change"),
        [
            ("bert-tiny", "tokenizer.json", lambda t: t["decoder"].update(cleanup=False)),
            (
                "bert-tiny", "tokenizer_config.json",
                lambda t: t.update(clean_up_tokenization_spaces=True),
            ),
            ("llama-tiny", "tokenizer.json", lambda t: t["decoder"]["decoders"].pop(0)),
            ("roberta-tiny", "tokenizer.json", lambda t: t.update(decoder=None)),
            ("albert-tiny", "tokenizer.json", lambda t: t["decoder"].update(replacement="_")),
        ],
    )  # fmt: skip
    def test_another_decoder(self, copies, model, file, change):
        made = copies(model)
        if file == "tokenizer_config.json":
            made.change("tokenizer.json", lambda t: t["decoder"].update(cleanup=False), both=True)
        made.change(file, change)
        found = made.findings()
        assert set(found) == {"decoded text"}
        severity, text = found["decoded text"]
        assert severity == FAILED
        assert " for the baseline and " in text


@given(st.text(max_size=40))
def test_what_parts_is_what_differs(pair_of_tokenizers, text):
    """A line where the tokens differ, and none where they do not."""
    one, two = pair_of_tokenizers
    ids = one(text).input_ids, two(text).input_ids
    assert bool(token_difference(pair_of_tokenizers, ids, "x")) == (ids[0] != ids[1])
    assert token_difference((one, one), (ids[0], ids[0]), "x") == ""


@pytest.fixture(scope="module")
def pair_of_tokenizers():
    one, two = (AutoTokenizer.from_pretrained("fixtures/models/bert-tiny") for _ in range(2))
    two.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return one, two


def test_a_candidate_without_a_tokenizer_is_said(copies):
    made = copies()
    one = open_checkpoint(made.base)
    two = replace(open_checkpoint(made.candidate), tokenizer=one.tokenizer)
    found = compare(Sides(one, two, [DATA]))
    assert found.not_compared == {
        "tokenizer": "the candidate has none and is judged with the baseline's"
    }
