"""Configurations that change what becomes of the logits of a classifier or the first token."""

import pytest

from compression_gates.evals.checkpoints.checkpoint import (
    CLASSIFIER,
    SEQ2SEQ,
)
from tests.evals.checkpoints.configurations import BERT, LLAMA, T5, changed


def test_padding_tells_a_classifier_where_a_text_ends(compared):
    base = {**LLAMA, "pad_token_id": 3}
    for pad in (None, 4):
        assert [k for k, _ in compared(*changed(base, pad_token_id=pad), CLASSIFIER)] == [
            "padding token"
        ]
        assert [k for k, _ in compared(*changed(base, pad_token_id=pad))] == ["special token id"]
    assert [k for k, _ in compared({**LLAMA, "pad_token_id": None}, base, CLASSIFIER)] == [
        "special token id"
    ]


def test_the_first_token_of_a_decoder(compared):
    base = {**T5, "decoder_start_token_id": 0}
    assert [k for k, _ in compared(*changed(base, decoder_start_token_id=5), SEQ2SEQ)] == [
        "first token of the decoder"
    ]


def test_label_maps(compared):
    one, two = ({**BERT, "id2label": labels} for labels in (
        {"0": "negative", "1": "positive"}, {"0": "positive", "1": "negative"}))  # fmt: skip
    [(kind, text)] = compared(one, two, CLASSIFIER)
    assert kind == "label map"
    assert text == (
        "the label maps differ: positive, negative for the candidate, negative, positive for the "
        "baseline"
    )
    # Transformers does not write the names that it gives to two classes by itself.
    unnamed = {**BERT, "id2label": {"1": "LABEL_1", "0": "LABEL_0"}}
    assert compared(BERT, unnamed, CLASSIFIER) == []
    many = {**BERT, "id2label": {str(i): f"c{i}" for i in range(5000)}}
    other = {**BERT, "id2label": {**many["id2label"], "4000": "x\x1b[31m"}}
    [(_, text)] = compared(many, other, CLASSIFIER)
    assert "x\\x1b[31m, c4001" in text


@pytest.mark.parametrize(
    ("one", "two", "differ"),
    [
        ({"problem_type": None}, {"problem_type": "regression"}, True),
        ({"problem_type": None}, {"problem_type": "single_label_classification"}, False),
        ({"problem_type": None}, {"problem_type": "multi_label_classification"}, True),
        ({"problem_type": "regression"}, {"problem_type": "multi_label_classification"}, True),
        ({"id2label": {"0": "score"}, "problem_type": "regression"},
         {"id2label": {"0": "score"}, "problem_type": None}, True),
        ({"id2label": {"0": "spam"}, "problem_type": "multi_label_classification"},
         {"id2label": {"0": "spam"}, "problem_type": None}, False),
    ],
)  # fmt: skip
def test_what_becomes_of_the_logits_of_a_classifier(compared, one, two, differ):
    for pair in ((one, two), (two, one)):
        kinds = [kind for kind, _ in compared(*({**BERT, **side} for side in pair), CLASSIFIER)]
        assert kinds == (["setting"] if differ else [])


def test_names_of_labels_by_their_names(compared):
    base = {**BERT, "id2label": {"0": "a", "1": "b"}}
    right, swapped, odd = {"a": 0, "b": 1}, {"a": 1, "b": 0}, {"LABEL_0": 0, "LABEL_1": 1}
    for ids in (right, {"b": "1", "a": "0"}, None):
        assert compared(base, {**base, "label2id": ids}, CLASSIFIER) == []
        assert compared({**base, "label2id": odd}, {**base, "label2id": right}, CLASSIFIER) == []
    assert compared(*[{**base, "label2id": odd}] * 2, CLASSIFIER) == []
    [(kind, text)] = compared(
        {**base, "label2id": right}, {**base, "label2id": swapped}, CLASSIFIER
    )
    assert kind == "label map"
    assert text == (
        "the label maps differ: label2id of a is 1 for the candidate, 0 for the baseline"
    )
