"""Which tokens end a generated text, and what is stored of it."""

import numpy as np
import pytest

from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.data.items import DataSet, Prompt
from compression_gates.evals.models.loading import load
from compression_gates.evals.scoring.continuation import continue_prompts
from compression_gates.evals.scoring.generation import PADDING, generate, up_to_end, up_to_stop
from compression_gates.evals.scoring.protocols import ContinuationProtocol, GenerationProtocol
from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS

LIMIT = 40
PASSAGES = [corpus.passage("held-out", index) for index in range(4)]
PROMPTS = DataSet(
    "prompts",
    tuple(Prompt(corpus.summary_prompt(p.text), p.summary, i) for i, p in enumerate(PASSAGES)),
)


@pytest.fixture(scope="module")
def loaded():
    return load(open_checkpoint(MODELS / "llama-tiny"))


@pytest.fixture(scope="module")
def free(loaded):
    """What is generated without a stop text, up to the limit."""
    return generate(loaded, PROMPTS, GenerationProtocol(stop="", max_new_tokens=LIMIT))


def texts_of(loaded, tokens: np.ndarray) -> list[str]:
    return [loaded.tokenizer.decode(row[row != PADDING].tolist()) for row in tokens]


@pytest.mark.parametrize("batch_tokens", [1, 9999])
@pytest.mark.parametrize("stop", ["\n", " owns a", "", "never generated"])
def test_a_text_ends_at_an_end_token_or_a_stop_text_or_at_the_limit(
    loaded, free, stop, batch_tokens
):
    protocol = GenerationProtocol(stop=stop, max_new_tokens=LIMIT, batch_tokens=batch_tokens)
    result = generate(loaded, PROMPTS, protocol)
    eos = loaded.tokenizer.decode(loaded.eos_token_ids)
    for row, text, whole in zip(
        result["tokens"], texts_of(loaded, result["tokens"]), texts_of(loaded, free["tokens"]),
        strict=True,
    ):  # fmt: skip
        assert whole.startswith(text)
        length = int((row != PADDING).sum())
        assert (row[length:] == PADDING).all()
        is_ended = text.endswith(eos) or bool(stop and stop in text)
        assert is_ended or length == LIMIT
        # Nothing follows the end.
        assert not stop or text.count(stop) <= 1
    expected = [t.endswith(eos) or bool(stop and stop in t)
                for t in texts_of(loaded, result["tokens"])]  # fmt: skip
    assert result["ended"].tolist() == expected
    if stop == " owns a":
        assert result["ended"].any()
    if stop == "never generated":
        assert result["tokens"].tolist() == free["tokens"].tolist()


def test_a_text_of_white_space_is_empty_and_one_without_a_match_is_not(loaded):
    protocol = GenerationProtocol(max_new_tokens=8, extract="(no such answer)")
    result = generate(loaded, PROMPTS, protocol)
    assert result["continuations"].tolist() == [""] * 4
    assert not result["empty"].any()
    first = generate(loaded, PROMPTS, GenerationProtocol(stop="", max_new_tokens=8))
    start = texts_of(loaded, first["tokens"])[0][:1]
    stopped = generate(loaded, PROMPTS, GenerationProtocol(stop=start, max_new_tokens=8))
    assert stopped["empty"][0]
    assert stopped["ended"][0]


def test_a_continuation_ends_at_an_end_token(loaded):
    protocol = ContinuationProtocol(max_new_tokens=12)
    result = continue_prompts(loaded, PROMPTS, protocol)
    assert result["ended"].tolist() == [
        bool(set(row) & set(loaded.eos_token_ids)) for row in result["tokens"].tolist()
    ]
    assert not result["empty"].any()


def test_tokens_after_the_first_end_are_padding():
    assert up_to_end([5, 2, 0, 0], [2]) == [5, 2]
    assert up_to_end([5, 6, 7], [2]) == [5, 6, 7]
    assert up_to_end([2, 2], [2, 3]) == [2]
    assert up_to_end([5, 2], ()) == [5, 2]


def test_tokens_after_a_stop_text_are_left_out():
    decode = "".join
    assert up_to_stop(["a", "b", "cd", "e", "e"], "bc", decode) == ["a", "b", "cd"]
    assert up_to_stop(["a", "b"], "bc", decode) == ["a", "b"]
    assert up_to_stop(["bc"], "bc", decode) == ["bc"]


def test_padding_with_the_end_token_is_no_end_of_a_stopped_text(loaded):
    """A text that stops earlier than the others of its batch is the same as by itself."""
    assert loaded.tokenizer.pad_token_id in loaded.eos_token_ids
    alone, together = (
        generate(
            loaded, PROMPTS, GenerationProtocol(stop=" as?", max_new_tokens=40, batch_tokens=n)
        )
        for n in (1, 9999)
    )
    lengths = (alone["tokens"] != PADDING).sum(axis=1)
    assert alone["ended"].any()
    assert len(set(lengths)) > 1
    assert together["tokens"].tolist() == alone["tokens"].tolist()
    assert together["ended"].tolist() == alone["ended"].tolist()
