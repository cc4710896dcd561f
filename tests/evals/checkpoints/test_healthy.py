"""A tokenizer that was saved again by a tool is not a difference."""

import json

import pytest
from transformers import AutoTokenizer

from compression_gates.evals.checkpoints.findings import Severity
from tests.evals.checkpoints import published

SHIPPED = ["llama-tiny", "bert-tiny", "albert-tiny", "roberta-tiny"]


def save_again(made, **changes):
    tokenizer = AutoTokenizer.from_pretrained(made.base)
    tokenizer(["a b", "c"], padding=tokenizer.pad_token is not None)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    for file in made.candidate.glob("tokenizer*"):
        file.unlink()
    tokenizer.save_pretrained(made.candidate)
    return {kind: severity for kind, (severity, _) in made.findings().items()}


@pytest.fixture(params=published.LAYOUTS, ids=lambda layout: layout.__name__)
def layout(request, copies):
    """Two copies with a published layout."""
    made = copies()
    for place in (made.base, made.candidate):
        published.write(request.param, place)
    return made


@pytest.mark.parametrize("model", SHIPPED)
def test_a_shipped_tokenizer_is_saved_again(copies, model):
    assert set(save_again(copies(model)).values()) <= {Severity.NOTED}


def test_a_published_tokenizer_is_saved_again(layout):
    assert set(save_again(layout).values()) <= {Severity.NOTED}


def test_a_quantizer_pads_on_the_left_and_leaves_it(layout):
    """Tools that calibrate in batches do so."""
    severities = save_again(layout, padding_side="left")
    assert set(severities.values()) <= {Severity.NOTED}


@pytest.mark.parametrize("model", SHIPPED)
def test_a_file_in_another_order(copies, model):
    made = copies(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        described = json.loads((made.candidate / name).read_text())
        backwards = dict(reversed(described.items()))
        (made.candidate / name).write_text(json.dumps(backwards, ensure_ascii=True))
    assert made.findings() == {}


def test_settings_that_are_spelled_out(layout):
    tokenizer = AutoTokenizer.from_pretrained(layout.base)
    layout.change(
        "tokenizer_config.json",
        lambda t: t.update(
            padding_side=tokenizer.padding_side, truncation_side="right",
            split_special_tokens=False, model_input_names=tokenizer.model_input_names,
        ),
    )  # fmt: skip
    assert layout.findings() == {}


@pytest.mark.parametrize(
    ("layout", "part"),
    [(published.llama_2, "normalizer"), (published.t5, "pre_tokenizer")],
    indirect=["layout"],
)
def test_a_file_that_a_class_completes_is_not_complete_for_other_readers(layout, part):
    """The classes of these models ignore the part in the file and build their own."""
    layout.change("tokenizer.json", lambda t: t.update({part: None}))
    one, two = map(AutoTokenizer.from_pretrained, (layout.base, layout.candidate))
    assert one("a b c").input_ids == two("a b c").input_ids
    findings = layout.findings()
    assert {kind: severity for kind, (severity, _) in findings.items()} == {
        "tokenizer.json": Severity.FAILED
    }
    assert "plain words" in findings["tokenizer.json"][1]
