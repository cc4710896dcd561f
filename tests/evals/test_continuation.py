"""Continuations against plain transformers, and their metrics on constructed cases."""

import math

import numpy as np
import pytest
import torch

from compression_gates.evals.data.items import DataSet, Prompt
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics import continuation_agreement
from compression_gates.evals.metrics.confident_flips import confident_flips
from compression_gates.evals.metrics.continuation_agreement import SURE, common_prefix_lengths
from compression_gates.evals.metrics.continuation_changes import continuation_changes
from compression_gates.evals.metrics.continuation_parting import continuation_parting
from compression_gates.evals.metrics.continuation_rouge1_drop import continuation_rouge1_drop
from compression_gates.evals.metrics.result import Scored
from compression_gates.evals.metrics.rouge1_drop import rouge1
from compression_gates.evals.models.loading import load
from compression_gates.evals.scoring.continuation import PADDING, continue_prompts
from compression_gates.evals.scoring.protocols import ContinuationProtocol
from compression_gates.evals.store.measurement import Measurement
from compression_gates.fixtures.world import corpus

PROMPTS = DataSet(
    "prompts",
    tuple(
        Prompt(corpus.passage("held-out", index).text[: 40 * (index + 1)], "", index)
        for index in range(5)
    ),
)
PROTOCOL = ContinuationProtocol(max_new_tokens=12)


class TestScorer:
    @pytest.fixture
    def sides(self, causal_checkpoint):
        return load(causal_checkpoint("one")), load(causal_checkpoint("two", seed=1))

    @pytest.mark.parametrize("batch_tokens", [1, 150, 4096])
    def test_continuations_equal_those_of_transformers(self, sides, batch_tokens):
        loaded, _ = sides
        protocol = ContinuationProtocol(max_new_tokens=12, batch_tokens=batch_tokens)
        result = continue_prompts(loaded, PROMPTS, protocol)
        for item, row, text in zip(
            PROMPTS.items, result["tokens"], result["continuations"], strict=True
        ):
            ids = loaded.tokenizer(item.prompt, return_tensors="pt").input_ids
            out = loaded.model.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=0)
            generated = out[0, ids.shape[1] :].tolist()
            assert row[row != PADDING].tolist() == generated
            assert text == loaded.tokenizer.decode(generated, skip_special_tokens=True)

    def test_choices_are_along_the_continuation_of_the_baseline(self, sides):
        one, two = sides
        before = continue_prompts(one, PROMPTS, PROTOCOL)
        after = continue_prompts(two, PROMPTS, PROTOCOL, before)
        for index, item in enumerate(PROMPTS.items):
            prompt = one.tokenizer(item.prompt).input_ids
            generated = before["tokens"][index]
            generated = generated[generated != PADDING].tolist()
            with torch.inference_mode():
                ids = torch.tensor([prompt + generated])
                rows = [side.model(ids).logits[0, len(prompt) - 1 : -1] for side in (one, two)]
            assert after["choices"][index, : len(generated)].tolist() == rows[1].argmax(-1).tolist()
            chances = rows[0].double().softmax(-1)[range(len(generated)), generated]
            assert before["chances"][index, : len(generated)] == pytest.approx(chances, abs=1e-5)
            assert (after["choices"][index, len(generated) :] == PADDING).all()

    def test_continuation_ends_at_end_token(self, sides):
        loaded, _ = sides
        free = continue_prompts(loaded, PROMPTS, PROTOCOL)["tokens"]
        end = int(free[0, 3])
        loaded.model.generation_config.eos_token_id = end
        ended = continue_prompts(loaded, PROMPTS, PROTOCOL)["tokens"]
        for row, whole in zip(ended, free.tolist(), strict=True):
            stop = whole.index(end) + 1 if end in whole else len(whole)
            assert row[row != PADDING].tolist() == whole[:stop]

    def test_long_prompt_is_truncated_on_the_left_after_bos(self, sides):
        loaded, _ = sides
        long = DataSet("long", (Prompt(corpus.passage("held-out", 0).text * 3, "", 0),))
        result = continue_prompts(loaded, long, PROTOCOL)
        ids = loaded.tokenizer(long.items[0].prompt, verbose=False).input_ids
        room = loaded.max_tokens - 12
        kept = [ids[0], *ids[len(ids) - room + 1 :]]
        out = loaded.model.generate(
            torch.tensor([kept]), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        assert result["tokens"][0].tolist() == out[0, room:].tolist()

    def test_error_if_context_has_no_room_for_a_prompt(self, sides):
        protocol = ContinuationProtocol(max_new_tokens=128)
        with pytest.raises(EvalError, match="128 tokens, but one has a context of 128"):
            continue_prompts(sides[0], PROMPTS, protocol)

    def test_model_does_not_differ_from_itself(self, sides, judge_on_one, monkeypatch):
        monkeypatch.setattr(continuation_agreement, "SURE", 0.0)
        loaded, _ = sides
        before = continue_prompts(loaded, PROMPTS, PROTOCOL)
        pair = [
            Scored(PROMPTS, Measurement(arrays, {}))
            for arrays in (before, continue_prompts(loaded, PROMPTS, PROTOCOL, before))
        ]
        for metric in (continuation_changes, continuation_parting, continuation_rouge1_drop):
            assert metric(*pair).estimate.value == 0.0

    def test_nan_logits_give_nan(self, sides):
        one, two = sides
        before = continue_prompts(one, PROMPTS, PROTOCOL)
        with torch.no_grad():
            two.model.model.layers[0].mlp.down_proj.weight[:] = math.nan
        after = continue_prompts(two, PROMPTS, PROTOCOL, before)
        pair = [Scored(PROMPTS, Measurement(arrays, {})) for arrays in (before, after)]
        for metric in (continuation_changes, continuation_parting, continuation_rouge1_drop):
            assert math.isnan(metric(*pair).estimate.value)


@pytest.fixture
def judge_on_one(monkeypatch):
    """Judge on a single continuation with a confident token."""
    monkeypatch.setattr(continuation_agreement, "FEWEST", 1)


def side(tokens, texts=None, **arrays) -> Scored:
    tokens = np.array(tokens)
    items = tuple(Prompt(f"prompt {index}", "", index) for index in range(len(tokens)))
    pieces = np.array([[f" {token}" for token in row] for row in tokens])
    arrays = {
        "tokens": tokens,
        "continuations": np.array(texts or [" ".join(row) for row in pieces]),
        "finite": np.ones(len(tokens), bool),
        "pieces": pieces,
        "choice_pieces": pieces,
        "chances": np.ones(tokens.shape),
        **{name: np.array(array) for name, array in arrays.items()},
    }
    return Scored(DataSet("d", items), Measurement(arrays, {}))


@pytest.mark.usefixtures("judge_on_one")
class TestMetrics:
    SAID = ((1, 2, 3, 4), (5, 6, 7, -1), (8, 9, 1, 2), (3, 4, 5, 6))
    CHANCES = ((SURE, 0.5, 1.0, 0.5), (0.9, 0.9, SURE, 0), (0.5,) * 4, (1.0,) * 4)

    def flips(self, choices):
        baseline = side(self.SAID, chances=self.CHANCES)
        pieces = [[f" {token}" for token in row] for row in choices]
        candidate = side(self.SAID, choices=choices, choice_pieces=pieces)
        return confident_flips(baseline, candidate)

    def test_only_confident_tokens_of_the_baseline_count(self):
        # The choice changes at a near-tie in the first prompt and at a confident token in the
        # second; the third has no confident token.
        choices = ((1, 0, 3, 4), (5, 6, 0, -1), (0, 0, 0, 0), (3, 4, 5, 6))
        result = self.flips(choices)
        assert result.estimate.value == pytest.approx(1 / 3)
        assert result.estimate.n == 3
        assert result.facts["sure_tokens"] == 2 + 1 + 4
        assert result.facts["sure_tokens_flipped"] == 1
        assert result.facts["choices_flipped"] == pytest.approx(6 / 15)

    def test_worst_item_shows_the_changed_token(self):
        choices = ((1, 2, 0, 4), (5, 6, 7, -1), (8, 9, 1, 2), (0, 0, 5, 6))
        result = self.flips(choices)
        assert len(result.worst) == 2
        worst = result.worst.items[0]
        assert (worst.row, worst.baseline, worst.candidate) == (4, " 3", " 0")

    def test_not_judged_without_confident_tokens(self):
        baseline = side(self.SAID, chances=np.full((4, 4), 0.5))
        result = confident_flips(baseline, side(self.SAID, choices=self.SAID))
        assert result.not_judged
        assert result.estimate.n == 0

    def test_parting_is_the_position_of_the_first_difference(self):
        one = np.array([[1, 2, 3, -1], [1, 2, 3, 4], [1, 2, -1, -1], [1, -1, -1, -1]])
        two = np.array([[1, 2, 3, -1], [1, 9, 3, 4], [1, 2, 7, 8], [2, 3, 4, 5]])
        assert common_prefix_lengths(one, two).tolist() == [3, 1, 2, 0]

    def test_share_of_changes_and_their_positions(self):
        other = ((1, 2, 3, 4), (5, 0, 7, -1), (8, 9, 1, 0), (0, 0, 0, 0))
        baseline, candidate = side(self.SAID), side(other)
        changes, lost = (
            metric(baseline, candidate) for metric in (continuation_changes, continuation_parting)
        )
        assert changes.estimate.value == 3 / 4
        assert lost.estimate.value == pytest.approx((0 + 2 / 3 + 1 / 4 + 1) / 4)
        assert lost.facts["tokens_until_parting"] == (4 + 1 + 3 + 0) / 4
        worst = lost.worst.items[0]
        assert (worst.row, worst.loss) == (4, 1.0)
        assert (worst.baseline, worst.candidate) == (" 3  4  5  6", " 0  0  0  0")
        assert changes.estimate.low <= 3 / 4 <= changes.estimate.high

    def test_rouge_is_against_the_continuation_of_the_baseline(self):
        generated = ["a red kite", "", "by the river", "one"]
        other = ["a red kite", "", "by the lake", "two"]
        result = continuation_rouge1_drop(side(self.SAID, generated), side(self.SAID, other))
        expected = [1.0, 1.0, rouge1(generated[2], other[2]), 0.0]
        assert result.estimate.value == pytest.approx(1 - np.mean(expected))
        assert result.candidate == pytest.approx(np.mean(expected))


def test_fewer_than_ten_confident_continuations_are_not_judged():
    generated = tuple((index, index + 1) for index in range(1, 10))
    baseline, candidate = side(generated), side(generated, choices=generated)
    for metric in (
        confident_flips, continuation_changes, continuation_parting, continuation_rouge1_drop,
    ):  # fmt: skip
        result = metric(baseline, candidate)
        assert result.not_judged.startswith("9 of 9 continuations have a token")
        assert math.isnan(result.estimate.value)
    broken = side(generated, choices=generated, finite=np.zeros(9, bool))
    assert not confident_flips(baseline, broken).not_judged
    assert math.isnan(confident_flips(baseline, broken).estimate.value)
