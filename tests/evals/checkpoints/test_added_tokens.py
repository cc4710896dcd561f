"""Added tokens and their flags are compared by their effect on texts."""

import pytest
from transformers import AutoTokenizer

from compression_gates.evals.checkpoints.findings import Severity


def added(**flags):
    usual = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return {"id": 569, "content": "<|Note|>", **usual, **flags}


@pytest.fixture
def noted(copies):
    """``noted(model, baseline's flags, candidate's flags)``: findings for ``<|Note|>``."""

    def make(model, before, after):
        checkpoints = copies(model)
        for copy, flags in ((checkpoints.swapped(), before), (checkpoints, after)):
            if flags is not None:
                copy.change("tokenizer.json", lambda t, f=flags: t["added_tokens"].append(f))
        return checkpoints.findings()

    return make


@pytest.mark.parametrize(
    "change",
    [{"special": False}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}],
)
def test_flag_with_an_effect(noted, change):
    severity, text = noted("llama-tiny", added(), added(**change))["added token"]
    assert severity == Severity.FAILED
    (name, value), *_ = change.items()
    shown = f"'<|Note|>' has {name}={not value} for the baseline and {value} for the candidate"
    assert shown in text


def test_normalized_token_matches_other_spellings(noted):
    findings = noted(
        "albert-tiny", added(id=501, special=False), added(id=501, special=False, normalized=True)
    )
    assert findings["added token"][0] == Severity.FAILED


def test_flag_without_effect_is_noted(noted):
    """RoBERTa's tokenizer normalizes nothing."""
    findings = noted("roberta-tiny", added(), added(normalized=True))
    assert {kind: severity for kind, (severity, _) in findings.items()} == {
        "flags of an added token": Severity.NOTED
    }


def test_lost_token(noted):
    severity, text = noted("llama-tiny", added(), None)["added token"]
    assert severity == Severity.FAILED
    assert "'<|Note|>' (569) is no added token of the candidate" in text


def test_lost_reserved_token_is_noted(copies):
    checkpoints = copies()
    more = [added(content="<|reserved_special_token_7|>"), added(content="<unused3>", id=570)]
    checkpoints.swapped().change("tokenizer.json", lambda t: t["added_tokens"].extend(more))
    findings = checkpoints.findings()
    assert "<unused3>" in findings["flags of an added token"][1]
    assert {severity for severity, _ in findings.values()} == {Severity.NOTED}


@pytest.mark.parametrize("name", ["<pad>", "[PAD]", "<|finetune_right_pad_id|>"])
def test_new_control_token_is_noted(copies, name):
    """Fine-tuning tools add such tokens for padding."""
    checkpoints = copies()
    checkpoints.change("tokenizer.json", lambda t: t["added_tokens"].append(added(content=name)))
    checkpoints.change("tokenizer_config.json", lambda t: t.update(pad_token=name))
    findings = checkpoints.findings()
    assert {kind: severity for kind, (severity, _) in findings.items()} == {
        "more vocabulary": Severity.NOTED, "other padding": Severity.NOTED,
    }  # fmt: skip
    assert repr(name) in findings["more vocabulary"][1]


def test_swapped_tokens(copies):
    checkpoints = copies()
    two = [added(content="<|a|>"), added(content="<|b|>", id=570)]
    checkpoints.change("tokenizer.json", lambda t: t["added_tokens"].extend(two), both=True)

    def swap(described):
        one, other = described["added_tokens"][-2:]
        one["content"], other["content"] = other["content"], one["content"]

    checkpoints.change("tokenizer.json", swap)
    severity, text = checkpoints.findings()["added token"]
    assert severity == Severity.FAILED
    assert "'<|a|>' has id=569 for the baseline and 570 for the candidate" in text


@pytest.mark.parametrize("word", ["Answer", "zebra", "Rufus "])
def test_word_that_becomes_an_added_token(copies, word):
    """A special token is removed from answers; any other one is unknown to the model."""
    checkpoints = copies()
    change = {"extra_special_tokens": [word]}
    checkpoints.change("tokenizer_config.json", lambda t: t.update(change))
    severity, text = checkpoints.findings()["added token"]
    assert severity == Severity.FAILED
    assert f"{word!r} is no added token of the baseline" in text


def test_vocabulary_entry_that_becomes_an_added_token_is_noted(copies):
    checkpoints = copies()
    index = AutoTokenizer.from_pretrained(checkpoints.base).convert_tokens_to_ids("\n")
    flags = added(content="\n", id=index, special=False)
    checkpoints.change("tokenizer.json", lambda t: t["added_tokens"].append(flags))
    assert {severity for severity, _ in checkpoints.findings().values()} <= {Severity.NOTED}


@pytest.mark.parametrize(
    ("word", "special"),
    [("[1]", True), ("(see below)", True), ("{x}", True), ("<p class=a>", True), ("<br>", False)],
)
def test_ordinary_text_is_no_control_token(copies, word, special):
    checkpoints = copies("llama-tiny")
    token = added(content=word, special=special)
    checkpoints.change("tokenizer.json", lambda t: t["added_tokens"].append(token))
    severity, text = checkpoints.findings()["added token"]
    assert severity == Severity.FAILED
    assert word in text
