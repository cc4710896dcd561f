"""Settings that act beyond the lengths of the texts."""

import pytest

from compression_gates.evals.data.items import DataSet, Prompt, ProtocolOverrides, Text
from tests.evals.checkpoints.configurations import (
    LLAMA,
    MISTRAL,
    changed,
)


def test_a_window_beyond_the_longest_text(compared):
    [(kind, text)] = compared(*changed({**MISTRAL, "sliding_window": 64}, sliding_window=None))
    assert kind == "attention pattern"
    assert text == (
        "the configurations differ in sliding_window (64 for the baseline, None for the "
        "candidate): these texts have at most 7 tokens, so no score can show it"
    )
    [(_, text)] = compared(*changed({**MISTRAL, "sliding_window": 4}, sliding_window=None))
    assert "no score can show" not in text


def test_prompts_that_are_continued_are_longer_than_their_text(compared):
    data = DataSet("d", (Prompt("Rufus lives in Merrin.", "", 0),))
    for window, seen in ((64, True), (256, False)):
        pair = changed({**MISTRAL, "sliding_window": window}, sliding_window=None)
        [(_, text)] = compared(*pair, data=data)
        assert text.endswith("these texts have at most 6 tokens, so no score can show it") != seen


def test_long_texts_that_are_read_in_short_windows(compared):
    data = DataSet("d", (Text("Rufus lives in Merrin. " * 40, 0),), ProtocolOverrides(context=32))
    [(_, text)] = compared(
        *changed({**MISTRAL, "sliding_window": 64}, sliding_window=None), data=data
    )
    assert text.endswith("these texts are read 32 tokens at a time, so no score can show it")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "dynamic", "factor": 8.0}),
        ({"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "default"}),
        ({"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
          "original_max_position_embeddings": 256, "attention_factor": 1.0},
         {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
          "original_max_position_embeddings": 256, "attention_factor": 1.0}),
    ],
)  # fmt: skip
def test_rope_that_changes_with_the_length(compared, one, two):
    [(kind, text)] = compared(*({**LLAMA, "rope_parameters": p} for p in (one, two)))
    assert kind == "rope"
    assert text.endswith("these texts have at most 7 tokens, so no score can show it")


def test_the_short_factors_of_longrope_act_at_once(compared):
    base = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
            "original_max_position_embeddings": 256}  # fmt: skip
    other = {**base, "short_factor": [1.5] * 8}
    [(kind, text)] = compared(*({**LLAMA, "rope_parameters": p} for p in (base, other)))
    assert kind == "rope"
    assert "no score" not in text
