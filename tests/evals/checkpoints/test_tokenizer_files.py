"""Limits, sides, padding and truncation, also for programs that read only ``tokenizer.json``."""

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


def severities(findings):
    return {kind: severity for kind, (severity, _) in findings.items()}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (None, 8, "truncation"),
        (None, 511, "truncation"),
        (256, 128, "truncation"),
        (None, 512, "other limit"),  # the limit of the model
        (None, 4096, "other limit"),
        (512, 600, "other limit"),
        (128, None, None),
        (128, 128, None),
    ],
)
def test_truncation_in_the_file(copies, before, after, kind):
    checkpoints = copies()
    for copy, length in ((checkpoints.swapped(), before), (checkpoints, after)):
        if length is not None:
            copy.change("tokenizer.json", lambda t, n=length: t.update(truncation=truncation(n)))
    findings = checkpoints.findings()
    assert severities(findings) == (
        {kind: NOTED if kind == "other limit" else FAILED} if kind else {}
    )
    if kind:
        assert f"inputs to {after} tokens on the right for the candidate" in findings[kind][1]


def test_truncation_that_transformers_saves(copies):
    """Calibration scripts save the truncation of their last call."""
    checkpoints = copies()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints.base)
    tokenizer("a b c", truncation=True, max_length=8)
    tokenizer.save_pretrained(checkpoints.candidate)
    assert (
        len(Tokenizer.from_file(str(checkpoints.candidate / "tokenizer.json")).encode("a " * 9))
        == 8
    )
    assert severities(checkpoints.findings()) == {"truncation": FAILED}


@pytest.mark.parametrize(
    ("after", "kind", "severity"),
    [
        (padding({"Fixed": 64}), "fixed padding", FAILED),
        (padding(), "other padding", NOTED),
        (padding(direction="Left"), "other padding", NOTED),
    ],
)
def test_padding_in_the_file(copies, after, kind, severity):
    checkpoints = copies()
    checkpoints.change("tokenizer_config.json", lambda t: t.update(padding_side="right"), both=True)
    checkpoints.change("tokenizer.json", lambda t: t.update(padding=after))
    assert severities(checkpoints.findings()) == {kind: severity}


def test_equal_padding_in_both_files(copies):
    checkpoints = copies("bert-tiny")
    fixed = padding({"Fixed": 64}, index=0) | {"pad_token": "[PAD]"}
    checkpoints.change("tokenizer.json", lambda t: t.update(padding=fixed), both=True)
    assert checkpoints.findings() == {}
    checkpoints.change("tokenizer.json", lambda t: t.update(padding=None))
    assert checkpoints.findings() == {}


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
    checkpoints = copies(model)
    for copy, side in ((checkpoints.swapped(), before), (checkpoints, after)):
        copy.change("tokenizer_config.json", lambda t, s=side: t.update(padding_side=s))
    kind = "padding side" if severity == FAILED else "other padding"
    text = f"the tokenizer pads on the {before} for the baseline and {after} for the candidate"
    assert checkpoints.findings() == {kind: (severity, text)}


def test_classifier_with_relative_positions_may_pad_on_the_left(copies):
    checkpoints = copies("bert-tiny")
    checkpoints.change("config.json", lambda c: c.update(rope_theta=10000.0), both=True)
    checkpoints.change("tokenizer_config.json", lambda t: t.update(padding_side="left"))
    assert severities(checkpoints.findings()) == {"other padding": NOTED}


@pytest.mark.parametrize(
    ("model", "severity"), [("llama-tiny", NOTED), ("bert-tiny", FAILED), ("albert-tiny", FAILED)]
)
def test_truncation_side(copies, model, severity):
    checkpoints = copies(model)
    checkpoints.change("tokenizer_config.json", lambda t: t.update(truncation_side="left"))
    assert list(severities(checkpoints.findings()).values()) == [severity]


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
    checkpoints = copies(model)
    for copy, length in ((checkpoints.swapped(), before), (checkpoints, after)):
        copy.change("tokenizer_config.json", lambda t, n=length: t.update(model_max_length=n))
    assert severities(checkpoints.findings()) == ({kind: severity} if kind else {})


def test_lost_padding_token(copies):
    checkpoints = copies()
    checkpoints.change("tokenizer_config.json", lambda t: t.pop("pad_token"))
    message = "the padding token is '</s>' for the baseline and None for the candidate"
    assert checkpoints.findings() == {"no padding token": (FAILED, message)}


def test_no_file_for_other_readers(copies):
    checkpoints = copies("bert-tiny")
    words = AutoTokenizer.from_pretrained(checkpoints.base).get_vocab()
    (checkpoints.candidate / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)))
    (checkpoints.candidate / "tokenizer.json").unlink()
    checkpoints.change("tokenizer_config.json", lambda t: t.update(tokenizer_class="BertTokenizer"))
    assert checkpoints.findings()["no tokenizer.json"] == (
        NOTED, "only the baseline has a tokenizer.json",
    )  # fmt: skip


def lose_decoder(described):
    described["decoder"] = None


def lose_flags(described):
    for token in described["added_tokens"]:
        token["special"] = False


@pytest.mark.parametrize("layout", [published.qwen_2, published.llama_2, published.llama_3])
@pytest.mark.parametrize("change", [lose_decoder, lose_flags])
def test_decoding_for_other_readers(copies, layout, change):
    checkpoints = copies()
    for place in (checkpoints.base, checkpoints.candidate):
        published.write(layout, place)
    assert checkpoints.findings() == {}
    checkpoints.change("tokenizer.json", change)
    findings = checkpoints.findings()
    if "decoded text" in findings:  # the class uses the file unchanged
        assert findings["decoded text"][0] == FAILED
        return
    severity, text = findings["tokenizer.json"]
    assert severity == FAILED
    assert "gives different text for the same tokens to readers other than transformers" in text


@pytest.mark.parametrize(("name", "flag"), [("bos", False), ("eos", True)])
def test_flag_for_other_readers(copies, name, flag):
    checkpoints = copies()
    checkpoints.change("tokenizer_config.json", lambda t: t.update({f"add_{name}_token": not flag}))
    assert checkpoints.findings() == {}
    checkpoints.change("tokenizer_config.json", lambda t: t.update({f"add_{name}_token": flag}))
    severity, text = checkpoints.findings()["flag for other readers"]
    assert severity == NOTED
    assert f"add_{name}_token = {str(flag).lower()} for the candidate" in text
    checkpoints.change(
        "tokenizer_config.json", lambda t: t.update({f"add_{name}_token": flag}), both=True
    )
    assert checkpoints.findings() == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer.model", "garbage"), ("vocab.json", "{}"), ("merges.txt", "a b")],
)
def test_vocabulary_for_other_readers(copies, name, content):
    checkpoints = copies()
    (checkpoints.candidate / name).write_text(content)
    severity, text = checkpoints.findings()["vocabulary for other readers"]
    assert severity == NOTED
    assert f"the candidate's {name} differs from the baseline's" in text
    (checkpoints.base / name).write_text(content + "\n")
    assert checkpoints.findings() == {}


def test_legacy_files_of_the_same_tokenizer(copies):
    checkpoints = copies()
    for place in (checkpoints.base, checkpoints.candidate):
        published.write(published.qwen_2, place)
    model = json.loads((checkpoints.base / "tokenizer.json").read_text())["model"]
    (checkpoints.candidate / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (checkpoints.candidate / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    assert checkpoints.findings() == {}
