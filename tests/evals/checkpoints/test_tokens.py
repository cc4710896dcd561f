"""Tokens of two checkpoints are compared before either is scored."""

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
    text = "; ".join(finding.text for finding in compare(sides).findings)
    assert "\n" not in text
    return text


def rewrite(checkpoint, name, change):
    file = checkpoint.path / name
    described = json.loads(file.read_text())
    change(described)
    file.write_text(json.dumps(described))


@pytest.fixture
def pair(causal_checkpoint):
    return causal_checkpoint("one"), causal_checkpoint("two", seed=1)


def test_equal_tokenizers(pair):
    assert problem(*pair) == ""


def test_swapped_tokens(pair):
    def swap(described):
        words = described["model"]["vocab"]
        places = [i for i, (word, _) in enumerate(words) if word in ("\u2581lives", "\u2581owns")]
        one, two = places
        words[one], words[two] = words[two], words[one]

    rewrite(pair[1], "tokenizer.json", swap)
    text = problem(*pair)
    assert text.startswith("the tokenizers differ: token ")
    assert "of 'Rufus lives in Merrin.' in texts is '\u2581lives' (" in text
    assert "for the baseline and '\u2581lives' (" in text  # the same word has another id


def test_lost_first_token(pair):
    rewrite(pair[1], "tokenizer.json", lambda t: t.update(post_processor=None))
    assert "token 1 of 'Rufus lives in Merrin.' in texts is '<s>' (1)" in problem(*pair)


def test_different_end_token(pair):
    rewrite(pair[1], "tokenizer_config.json", lambda t: t.update(eos_token="<unk>"))
    message = "the eos token is '</s>' (2) for the baseline and '<unk>' (0) for the candidate"
    assert problem(*pair) == message


def test_different_padding_token(pair):
    rewrite(pair[1], "tokenizer_config.json", lambda t: t.update(pad_token="<unk>"))
    message = "the padding token is '</s>' for the baseline and '<unk>' for the candidate"
    assert problem(*pair) == message


def test_shorter_context(causal_checkpoint):
    one = causal_checkpoint("one")
    two = causal_checkpoint("two", max_position_embeddings=64)
    assert problem(one, two) == "the candidate accepts at most 64 tokens, the baseline 128"
    assert problem(two, one) == "the candidate accepts at most 128 tokens, the baseline 64"


def refusals(checkpoints, *data):
    return [text for severity, text in checkpoints.findings(*data).values() if severity == REFUSED]


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
    """Fixed texts cover what the data do not contain."""

    @pytest.mark.parametrize("name", CHANGES)
    def test_each_kind_of_text(self, copies, name):
        model, change = CHANGES[name]
        checkpoints = copies(model)
        if name == "digits":
            checkpoints.change("tokenizer.json", learn_twelve, both=True)
        for place in (checkpoints.base, checkpoints.candidate):
            (place / "chat_template.jinja").unlink(missing_ok=True)
        checkpoints.change("tokenizer.json", change)
        plain = DataSet("plain", (Text("the film is good", 0),))
        findings = checkpoints.findings(plain)
        severity, text = findings["stress text"]
        assert severity == FAILED
        assert text.startswith("the tokenizers differ on ")
        assert not refusals(checkpoints, plain)
        if name in ("spaces", "Chinese", "accents", "long word", "control characters"):
            assert name in text

    def test_the_same_text_in_the_data_is_refused(self, copies):
        checkpoints = copies("bert-tiny")
        checkpoints.change("tokenizer.json", lambda t: t["normalizer"].update(lowercase=False))
        (message, *_) = refusals(checkpoints)
        assert message.startswith("the tokenizers differ: token ")

    def test_expected_answers_are_data(self, copies):
        checkpoints = copies("roberta-tiny")
        checkpoints.change("tokenizer.json", lambda t: t.update(normalizer={
            "type": "Replace", "pattern": {"String": "9"}, "content": "8"}))  # fmt: skip
        prompts = DataSet("asked", (Prompt("How many?", "99", 0),))
        (message,) = refusals(checkpoints, prompts)
        assert "of '99' in asked" in message

    def test_text_that_the_candidate_cannot_encode(self, copies):
        checkpoints = copies("bert-tiny")
        checkpoints.change("tokenizer.json", lambda t: t["model"].update(unk_token="[none]"))
        findings = checkpoints.findings(DataSet("plain", (Text("the film is good", 0),)))
        severity, text = findings["stress text"]
        assert severity == FAILED
        assert "the candidate's tokenizer fails on" in text

    def test_two_texts_as_one_input(self, copies):
        """BERT distinguishes two texts by their token types."""
        checkpoints = copies("bert-tiny")
        names = ["input_ids", "token_type_ids", "attention_mask"]
        checkpoints.swapped().change(
            "tokenizer_config.json", lambda t: t.update(model_input_names=names)
        )
        ((kind, (severity, text)),) = checkpoints.findings().items()
        assert (kind, severity) == ("stress text", FAILED)
        assert "token_type_ids of two texts as one input" in text


class TestDecoding:
    """The same tokens must be decoded to the same text."""

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
    def test_different_decoder(self, copies, model, file, change):
        checkpoints = copies(model)
        if file == "tokenizer_config.json":
            checkpoints.change(
                "tokenizer.json", lambda t: t["decoder"].update(cleanup=False), both=True
            )
        checkpoints.change(file, change)
        findings = checkpoints.findings()
        assert set(findings) == {"decoded text"}
        severity, text = findings["decoded text"]
        assert severity == FAILED
        assert " for the baseline and " in text


@given(st.text(max_size=40))
def test_token_difference_is_empty_only_for_equal_tokens(pair_of_tokenizers, text):
    one, two = pair_of_tokenizers
    ids = one(text).input_ids, two(text).input_ids
    assert bool(token_difference(pair_of_tokenizers, ids, "x")) == (ids[0] != ids[1])
    assert token_difference((one, one), (ids[0], ids[0]), "x") == ""


@pytest.fixture(scope="module")
def pair_of_tokenizers():
    one, two = (AutoTokenizer.from_pretrained("fixtures/models/bert-tiny") for _ in range(2))
    two.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return one, two


def test_candidate_without_a_tokenizer(copies):
    checkpoints = copies()
    one = open_checkpoint(checkpoints.base)
    two = replace(open_checkpoint(checkpoints.candidate), tokenizer=one.tokenizer)
    comparison = compare(Sides(one, two, [DATA]))
    assert comparison.not_compared == {
        "tokenizer": "the candidate has none and is judged with the baseline's"
    }
