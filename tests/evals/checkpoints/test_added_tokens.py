"""Added tokens and their flags count by what becomes of them in a text."""

import pytest
from transformers import AutoTokenizer

from compression_gates.evals.checkpoints.findings import Severity


def added(**flags):
    usual = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return {"id": 569, "content": "<|Note|>", **usual, **flags}


@pytest.fixture
def noted(copies):
    """``noted(model, baseline's flags, candidate's flags)``: what is found of ``<|Note|>``."""

    def make(model, before, after):
        made = copies(model)
        for copy, flags in ((made.swapped(), before), (made, after)):
            if flags is not None:
                copy.change("tokenizer.json", lambda t, f=flags: t["added_tokens"].append(f))
        return made.findings()

    return make


@pytest.mark.parametrize(
    "change",
    [{"special": False}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}],
)
def test_a_flag_that_matters(noted, change):
    severity, text = noted("llama-tiny", added(), added(**change))["added token"]
    assert severity == Severity.FAILED
    (name, value), *_ = change.items()
    shown = f"'<|Note|>' has {name}={not value} for the baseline and {value} for the candidate"
    assert shown in text


def test_a_token_that_is_normalized_is_found_in_other_spellings(noted):
    found = noted(
        "albert-tiny", added(id=501, special=False), added(id=501, special=False, normalized=True)
    )
    assert found["added token"][0] == Severity.FAILED


def test_a_flag_that_does_nothing_is_noted(noted):
    """Nothing is normalized by RoBERTa's tokenizer."""
    found = noted("roberta-tiny", added(), added(normalized=True))
    assert {kind: severity for kind, (severity, _) in found.items()} == {
        "flags of an added token": Severity.NOTED
    }


def test_a_token_that_is_lost(noted):
    severity, text = noted("llama-tiny", added(), None)["added token"]
    assert severity == Severity.FAILED
    assert "'<|Note|>' (569) is no added token of the candidate" in text


def test_a_reserved_token_that_is_lost_is_noted(copies):
    made = copies()
    more = [added(content="<|reserved_special_token_7|>"), added(content="<unused3>", id=570)]
    made.swapped().change("tokenizer.json", lambda t: t["added_tokens"].extend(more))
    found = made.findings()
    assert "<unused3>" in found["flags of an added token"][1]
    assert {severity for severity, _ in found.values()} == {Severity.NOTED}


@pytest.mark.parametrize("name", ["<pad>", "[PAD]", "<|finetune_right_pad_id|>"])
def test_a_token_that_only_the_candidate_has_is_noted(copies, name):
    """As tools add one to pad with."""
    made = copies()
    made.change("tokenizer.json", lambda t: t["added_tokens"].append(added(content=name)))
    made.change("tokenizer_config.json", lambda t: t.update(pad_token=name))
    found = made.findings()
    assert {kind: severity for kind, (severity, _) in found.items()} == {
        "more vocabulary": Severity.NOTED, "other padding": Severity.NOTED,
    }  # fmt: skip
    assert repr(name) in found["more vocabulary"][1]


def test_tokens_that_changed_places(copies):
    made = copies()
    two = [added(content="<|a|>"), added(content="<|b|>", id=570)]
    made.change("tokenizer.json", lambda t: t["added_tokens"].extend(two), both=True)

    def swap(described):
        one, other = described["added_tokens"][-2:]
        one["content"], other["content"] = other["content"], one["content"]

    made.change("tokenizer.json", swap)
    severity, text = made.findings()["added token"]
    assert severity == Severity.FAILED
    assert "'<|a|>' has id=569 for the baseline and 570 for the candidate" in text


@pytest.mark.parametrize("word", ["Answer", "zebra", "Rufus "])
def test_a_word_that_becomes_a_token(copies, word):
    """A special one vanishes from answers, another is one that the model has never seen."""
    made = copies()
    change = {"extra_special_tokens": [word]}
    made.change("tokenizer_config.json", lambda t: t.update(change))
    severity, text = made.findings()["added token"]
    assert severity == Severity.FAILED
    assert f"{word!r} is no added token of the baseline" in text


def test_a_word_that_is_one_already_is_noted(copies):
    made = copies()
    index = AutoTokenizer.from_pretrained(made.base).convert_tokens_to_ids("\n")
    flags = added(content="\n", id=index, special=False)
    made.change("tokenizer.json", lambda t: t["added_tokens"].append(flags))
    assert {severity for severity, _ in made.findings().values()} <= {Severity.NOTED}


@pytest.mark.parametrize(
    ("word", "special"),
    [("[1]", True), ("(see below)", True), ("{x}", True), ("<p class=a>", True), ("<br>", False)],
)
def test_what_text_may_hold_is_no_control_token(copies, word, special):
    made = copies("llama-tiny")
    token = added(content=word, special=special)
    made.change("tokenizer.json", lambda t: t["added_tokens"].append(token))
    severity, text = made.findings()["added token"]
    assert severity == Severity.FAILED
    assert word in text
