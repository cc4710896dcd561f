"""Limits, sides, padding and truncation, also as readers of ``tokenizer.json`` alone see them."""

import json

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from compression_gates.evals.checkpoints.findings import Severity
from tests.evals.checkpoints import published

FAILED, NOTED = Severity.FAILED, Severity.NOTED


def truncation(length, direction="Right"):
    return {
        "direction": direction, "max_length": length, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip


def padding(strategy="BatchLongest", direction="Right", index=2):
    return {
        "strategy": strategy, "direction": direction, "pad_to_multiple_of": None, "pad_id": index,
        "pad_type_id": 0, "pad_token": "</s>",
    }  # fmt: skip


def severities(found):
    return {kind: severity for kind, (severity, _) in found.items()}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (None, 8, "truncation"),
        (None, 511, "truncation"),
        (256, 128, "truncation"),
        (None, 512, "other limit"),  # the model takes no more
        (None, 4096, "other limit"),
        (512, 600, "other limit"),
        (128, None, None),
        (128, 128, None),
    ],
)
def test_truncation_in_the_file(copies, before, after, kind):
    made = copies()
    for copy, length in ((made.swapped(), before), (made, after)):
        if length is not None:
            copy.change("tokenizer.json", lambda t, n=length: t.update(truncation=truncation(n)))
    found = made.findings()
    assert severities(found) == ({kind: NOTED if kind == "other limit" else FAILED} if kind else {})
    if kind:
        assert f"inputs to {after} tokens on the right for the candidate" in found[kind][1]


def test_what_transformers_leaves_behind_is_truncation_to_others(copies):
    """The file that a call leaves, as calibration scripts save it."""
    made = copies()
    tokenizer = AutoTokenizer.from_pretrained(made.base)
    tokenizer("a b c", truncation=True, max_length=8)
    tokenizer.save_pretrained(made.candidate)
    assert len(Tokenizer.from_file(str(made.candidate / "tokenizer.json")).encode("a " * 9)) == 8
    assert severities(made.findings()) == {"truncation": FAILED}


@pytest.mark.parametrize(
    ("after", "kind", "severity"),
    [
        (padding({"Fixed": 64}), "fixed padding", FAILED),
        (padding(), "other padding", NOTED),
        (padding(direction="Left"), "other padding", NOTED),
    ],
)
def test_padding_in_the_file(copies, after, kind, severity):
    made = copies()
    made.change("tokenizer_config.json", lambda t: t.update(padding_side="right"), both=True)
    made.change("tokenizer.json", lambda t: t.update(padding=after))
    assert severities(made.findings()) == {kind: severity}


def test_equal_padding_in_both_files(copies):
    made = copies("bert-tiny")
    fixed = padding({"Fixed": 64}, index=0) | {"pad_token": "[PAD]"}
    made.change("tokenizer.json", lambda t: t.update(padding=fixed), both=True)
    assert made.findings() == {}
    made.change("tokenizer.json", lambda t: t.update(padding=None))
    assert made.findings() == {}


@pytest.mark.parametrize(
    ("model", "before", "after", "severity"),
    [
        ("llama-tiny", "left", "right", FAILED),
        ("llama-tiny", "right", "left", NOTED),
        ("bert-tiny", "right", "left", FAILED),
        ("roberta-tiny", "left", "right", NOTED),
    ],
)
def test_padding_side(copies, model, before, after, severity):
    made = copies(model)
    for copy, side in ((made.swapped(), before), (made, after)):
        copy.change("tokenizer_config.json", lambda t, s=side: t.update(padding_side=s))
    kind = "padding side" if severity == FAILED else "other padding"
    text = f"the tokenizer pads on the {before} for the baseline and {after} for the candidate"
    assert made.findings() == {kind: (severity, text)}


def test_a_classifier_with_relative_positions_may_pad_on_the_left(copies):
    made = copies("bert-tiny")
    made.change("config.json", lambda c: c.update(rope_theta=10000.0), both=True)
    made.change("tokenizer_config.json", lambda t: t.update(padding_side="left"))
    assert severities(made.findings()) == {"other padding": NOTED}


@pytest.mark.parametrize(
    ("model", "severity"), [("llama-tiny", NOTED), ("bert-tiny", FAILED), ("albert-tiny", FAILED)]
)
def test_truncation_side(copies, model, severity):
    made = copies(model)
    made.change("tokenizer_config.json", lambda t: t.update(truncation_side="left"))
    assert list(severities(made.findings()).values()) == [severity]


@pytest.mark.parametrize(
    ("model", "before", "after", "kind", "severity"),
    [
        ("llama-tiny", 512, 8, "truncation", FAILED),
        ("llama-tiny", 10**30, 256, "truncation", FAILED),
        ("llama-tiny", 512, 10**30, "other limit", NOTED),
        ("llama-tiny", 4096, 512, "other limit", NOTED),
        ("llama-tiny", 10**30, 10**20, None, None),
        ("bert-tiny", 64, 10**30, "no truncation", FAILED),
        ("roberta-tiny", 64, 32, "truncation", FAILED),
        ("bert-tiny", 64, 66, "other limit", NOTED),
    ],
)
def test_model_max_length(copies, model, before, after, kind, severity):
    made = copies(model)
    for copy, length in ((made.swapped(), before), (made, after)):
        copy.change("tokenizer_config.json", lambda t, n=length: t.update(model_max_length=n))
    assert severities(made.findings()) == ({kind: severity} if kind else {})


def test_a_padding_token_that_is_lost(copies):
    made = copies()
    made.change("tokenizer_config.json", lambda t: t.pop("pad_token"))
    told = "the padding token is '</s>' for the baseline and None for the candidate"
    assert made.findings() == {"no padding token": (FAILED, told)}


def test_no_file_for_other_readers(copies):
    made = copies("bert-tiny")
    words = AutoTokenizer.from_pretrained(made.base).get_vocab()
    (made.candidate / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)))
    (made.candidate / "tokenizer.json").unlink()
    made.change("tokenizer_config.json", lambda t: t.update(tokenizer_class="BertTokenizer"))
    assert made.findings()["no tokenizer.json"] == (
        NOTED, "only the baseline has a tokenizer.json",
    )  # fmt: skip


def lose_decoder(described):
    described["decoder"] = None


def lose_flags(described):
    for token in described["added_tokens"]:
        token["special"] = False


@pytest.mark.parametrize("layout", [published.qwen_2, published.llama_2, published.llama_3])
@pytest.mark.parametrize("change", [lose_decoder, lose_flags])
def test_text_of_the_file_for_other_readers(copies, layout, change):
    made = copies()
    for place in (made.base, made.candidate):
        published.write(layout, place)
    assert made.findings() == {}
    made.change("tokenizer.json", change)
    found = made.findings()
    if "decoded text" in found:  # its class takes the file as it is
        assert found["decoded text"][0] == FAILED
        return
    severity, text = found["tokenizer.json"]
    assert severity == FAILED
    assert "gives different text for the same tokens to readers other than transformers" in text


@pytest.mark.parametrize(("name", "asked"), [("bos", False), ("eos", True)])
def test_a_flag_that_only_other_readers_act_on(copies, name, asked):
    made = copies()
    made.change("tokenizer_config.json", lambda t: t.update({f"add_{name}_token": not asked}))
    assert made.findings() == {}
    made.change("tokenizer_config.json", lambda t: t.update({f"add_{name}_token": asked}))
    severity, text = made.findings()["flag for other readers"]
    assert severity == NOTED
    assert f"add_{name}_token = {str(asked).lower()} for the candidate" in text
    made.change(
        "tokenizer_config.json", lambda t: t.update({f"add_{name}_token": asked}), both=True
    )
    assert made.findings() == {}


@pytest.mark.parametrize(
    ("name", "held"), [("tokenizer.model", "garbage"), ("vocab.json", "{}"), ("merges.txt", "a b")]
)
def test_a_vocabulary_that_only_other_readers_take(copies, name, held):
    made = copies()
    (made.candidate / name).write_text(held)
    severity, text = made.findings()["vocabulary for other readers"]
    assert severity == NOTED
    assert f"the candidate's {name} differs from the baseline's" in text
    (made.base / name).write_text(held + "\n")
    assert made.findings() == {}


def test_older_files_of_the_same_tokenizer(copies):
    made = copies()
    for place in (made.base, made.candidate):
        published.write(published.qwen_2, place)
    model = json.loads((made.base / "tokenizer.json").read_text())["model"]
    (made.candidate / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (made.candidate / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    assert made.findings() == {}
