"""Metrics against independent computations: numpy, scipy and hand-made cases."""

import math
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from compression_gates.evals.data.items import Labelled, Prompt, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.accuracy_drop import accuracy_drop
from compression_gates.evals.metrics.answer_scores import exact_match, exact_match_drop, f1, f1_drop
from compression_gates.evals.metrics.compression_ratio import compression_ratio
from compression_gates.evals.metrics.flips import flips
from compression_gates.evals.metrics.normal_forms import squad
from compression_gates.evals.metrics.perplexity import perplexity, perplexity_drift
from compression_gates.evals.metrics.prediction_divergence import js_divergence
from compression_gates.evals.metrics.result import Scored, check_paired, not_judged
from compression_gates.evals.metrics.rouge1_drop import rouge1, rouge1_drop
from compression_gates.evals.metrics.speedup import speedup
from compression_gates.evals.metrics.weighted_score import speedup_needed, weighted_score
from compression_gates.evals.store.measurement import Measurement
from tests.evals.scores import ORIGIN, scored


class TestPerplexity:
    def test_is_one_for_certainty_and_the_size_of_a_uniform_vocabulary(self):
        assert perplexity([0.0, 0.0]) == 1.0
        assert perplexity([math.log(50)] * 3) == pytest.approx(50)
        assert perplexity([math.log(8)], units=3) == pytest.approx(2.0)
        assert perplexity([1e6]) == math.inf

    def test_drift_is_the_ratio_of_perplexities(self):
        generator = np.random.default_rng(0)
        window = np.repeat(np.arange(10), 5)
        base = generator.exponential(size=50)
        worse = base + generator.normal(0.1, 0.2, size=50)
        common = dict(
            tokens=np.arange(50), window=window, units=[40, 200], windowing=[64, 32],
            vocabulary=576, window_text=[f"w{i}" for i in range(10)], window_item=[0] * 10,
        )  # fmt: skip
        items = [Text("t", 0)]
        reading = perplexity_drift(
            scored(items, nll=base, **common), scored(items, nll=worse, **common)
        )
        ratio = math.exp(worse.mean()) / math.exp(base.mean())
        assert reading.estimate.value == pytest.approx(ratio - 1)
        assert reading.estimate.low < ratio - 1 < reading.estimate.high
        assert reading.facts["word_perplexity"] == pytest.approx(math.exp(worse.sum() / 40))
        assert reading.facts["byte_perplexity"] == pytest.approx(math.exp(worse.sum() / 200))
        assert "windows of 64 tokens, 32 apart" in reading.protocol
        for longest, told in ((63, "longest document 63 tokens"), (64, "in windows of 64 tokens")):
            sides = (scored(items, nll=nll, longest=longest, **common) for nll in (base, worse))
            assert told in perplexity_drift(*sides).protocol
        means = (worse - base).reshape(10, 5).mean(1)
        worst = reading.worst.items[0]
        assert (worst.row, worst.window, worst.prompt) == (
            1, means.argmax() + 1, f"w{means.argmax()}",
        )  # fmt: skip
        assert worst.loss == pytest.approx(means.max())
        assert worst.line().endswith(f"{means.max():.3g} nats per token, 'w{means.argmax()}'")
        assert len(reading.worst) == (means > 0).sum()

    def test_windows_of_one_document_are_not_taken_for_independent(self):
        generator = np.random.default_rng(1)
        levels = np.zeros(60)
        for t in range(1, 60):
            levels[t] = 0.6 * levels[t - 1] + generator.normal(0, 0.05)
        window = np.repeat(np.arange(60), 8)
        common = dict(
            tokens=np.arange(480), window=window, windowing=[8, 8], vocabulary=576,
            window_text=[f"w{i}" for i in range(60)], agree=np.ones(480),
        )  # fmt: skip
        js = generator.exponential(0.001, 480)
        common |= dict(js=js, kl_forward=js, kl_backward=js, tv=js)

        def width(items, cluster, metric=perplexity_drift):
            place = dict(cluster=cluster, window_item=np.arange(60) % len(items))
            base = scored(items, nll=np.ones(480), **place, **common)
            worse = scored(items, nll=1 + levels[window], **place, **common)
            found = metric(base, worse).estimate
            assert (found.clusters, found.unreliable) == (60, "")
            return found.high - found.low

        one = width([Text("t", 0)], window)
        many = width([Text(f"t{i}", i) for i in range(60)], window)
        assert one > 1.5 * many
        assert width([Text("t", 0)], window, js_divergence) >= width(
            [Text(f"t{i}", i) for i in range(60)], window, js_divergence
        )

    def test_texts_that_are_cut_differently_are_not_compared(self):
        def side(tokens, windowing=(8, 8)):
            arrays = dict(tokens=tokens, nll=[1.0, 2.0], window=[0, 0], js=[0.0, 0.0])
            return scored([Text("t", 0)], windowing=windowing, **arrays)

        with pytest.raises(EvalError, match="split the text differently"):
            perplexity_drift(side([1, 2]), side([1, 3]))
        with pytest.raises(EvalError, match="split the text differently"):
            js_divergence(side([1, 2]), side([1, 3]))
        with pytest.raises(
            EvalError, match="windows of 8 tokens with a stride of 8 for the baseline and of 9"
        ):
            js_divergence(side([1, 2]), side([1, 2], (9, 9)))


class TestAnswers:
    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("The Mill", "mill", 1.0),
            ("an old mill.", "Old  mill", 1.0),
            ("theatre", "atre", 0.0),
            ("", "the", 1.0),
            ("mill", "", 0.0),
        ],
    )
    def test_exact_match(self, one, other, same):
        assert exact_match(one, other) == same

    @pytest.mark.parametrize(
        ("expected", "got", "value"),
        [
            ("brass lantern", "brass lantern", 1.0),
            ("brass lantern", "lantern", 2 * 1 * 0.5 / 1.5),
            ("a b b c", "b b b", 2 * (2 / 3) * (2 / 3) / (4 / 3)),
            ("x", "y", 0.0),
            ("", "", 1.0),
            ("x", "", 0.0),
        ],
    )
    def test_f1(self, expected, got, value):
        assert f1(expected, got) == pytest.approx(value)

    def test_punctuation_is_removed_before_articles_as_in_the_official_script(self):
        assert squad("A.B. the-an (an) end") == "ab thean end"

    @given(st.text(), st.text())
    def test_bounds(self, one, other):
        assert exact_match(one, one) == f1(one, one) == 1.0
        assert 0.0 <= f1(one, other) <= 1.0
        assert f1(one, other) == f1(other, one)
        assert f1(one, other) >= exact_match(one, other)

    def test_drops_are_paired_and_show_what_got_worse(self):
        right = ["tin mug", "red hat", "blue coat", "old mill"]
        items = [Prompt(f"p\nQuestion: {i}?\nAnswer:", right[i], i) for i in range(4)]
        base = scored(items, continuations=["tin mug", "red hat", "coat", "x"])
        worse = scored(items, continuations=["tin mug", "blue hat", "coat", "old mill"])
        reading = exact_match_drop(base, worse)
        assert reading.estimate.value == 0.0
        assert (reading.baseline, reading.candidate) == (0.5, 0.5)
        (item,) = reading.worst.items
        assert item.line() == (
            "row 2: 'Question: 1?', expected 'red hat', baseline 'red hat', candidate 'blue hat'"
        )
        assert (item.prompt, item.loss) == ("p\nQuestion: 1?\nAnswer:", 1.0)
        assert f1_drop(base, worse).estimate.value == pytest.approx((0.5 - 1) / 4)

    def test_the_p_value_of_changes_goes_by_document(self):
        # Three passages lose all five answers, one gains all: three against one, not 15 against 5.
        right = [f"hat {i}" for i in range(20)]
        items = [Prompt(f"p\nQuestion: {i}?\nAnswer:", right[i], i // 5) for i in range(20)]
        base = scored(items, continuations=right[:15] + ["x"] * 5)
        worse = scored(items, continuations=["x"] * 15 + right[15:])
        facts = exact_match_drop(base, worse).facts
        assert (facts["worse"], facts["better"]) == (15.0, 5.0)
        expected = stats.binomtest(1, 4).pvalue - stats.binom.pmf(1, 4, 0.5)
        assert facts["mcnemar_p"] == pytest.approx(expected)

    def test_the_candidate_s_own_score_comes_with_its_interval(self):
        right = [f"hat {i}" for i in range(40)]
        items = [Prompt(f"p\nQuestion: {i}?\nAnswer:", right[i], i) for i in range(40)]
        base = scored(items, continuations=right)
        worse = scored(items, continuations=[*right[:39], "x"])
        level = exact_match_drop(base, worse).level
        expected = stats.binomtest(39, 40).proportion_ci(0.95, method="exact")
        assert level.value == 39 / 40
        assert (level.low, level.high) == pytest.approx(tuple(expected))
        assert f1_drop(base, worse).level is None

    def test_an_answer_without_numbers_behind_it_is_nan(self):
        items = [Prompt("p", "red", i) for i in range(3)]
        base = scored(items, continuations=["red"] * 3)
        broken = scored(items, continuations=["red"] * 3, finite=[True, False, True])
        assert math.isnan(exact_match_drop(base, broken).estimate.value)

    def test_rouge_counts_shared_words(self):
        assert rouge1("the cat sat", "the cat ran") == pytest.approx(2 / 3)
        right = ["the cat sat", "some dogs barked", "one bird sang"]
        items = [Prompt("p", summary, i) for i, summary in enumerate(right)]
        base = scored(items, continuations=right)
        worse = scored(items, continuations=["the cat sat", "", "one bird flew"])
        assert rouge1_drop(base, worse).estimate.value == pytest.approx((0 + 1 + 1 / 3) / 3)


class TestClassification:
    ITEMS = tuple(Labelled(f"t{i}", label, i) for i, label in enumerate([0, 1, 1, 0]))
    RIGHT = np.log([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    OTHER = np.log([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.7, 0.3]])

    def test_accuracy_and_flips(self):
        base = scored(self.ITEMS, log_probabilities=self.RIGHT)
        other = scored(self.ITEMS, log_probabilities=self.OTHER)
        drop = accuracy_drop(base, other)
        assert (drop.baseline, drop.candidate, drop.estimate.value) == (0.75, 0.75, 0.0)
        assert drop.facts == {"worse": 1.0, "better": 1.0, "mcnemar_p": 1.0, "guessing": 0.5}
        assert flips(base, other).estimate.value == 0.5
        lines = [item.line() for item in flips(base, other).worst.items]
        assert lines == [
            "row 2: 't1', expected 1, baseline 1, candidate 0",
            "row 4: 't3', expected 0, baseline 1, candidate 0",
        ]
        assert [item.row for item in drop.worst.items] == [2]

    @pytest.mark.parametrize("broken", ["baseline", "candidate", "both"])
    def test_a_row_of_nan_on_either_side_is_nan_and_never_a_class(self, broken):
        few = self.RIGHT.copy()
        few[0] = np.nan
        base, other = (
            scored(self.ITEMS, log_probabilities=few if broken in (side, "both") else self.RIGHT)
            for side in ("baseline", "candidate")
        )
        for metric in (accuracy_drop, flips):
            assert math.isnan(metric(base, other).estimate.value)
            assert metric(base, other).worst.items[0].prompt == "t0"

    def test_other_numbers_of_classes_are_not_compared(self):
        base = scored(self.ITEMS, log_probabilities=self.RIGHT)
        other = scored(self.ITEMS, log_probabilities=np.log(np.full((4, 3), 1 / 3)))
        for metric in (accuracy_drop, flips, js_divergence):
            with pytest.raises(EvalError, match="the label sets differ: 2 and 3 classes"):
                metric(base, other)

    def test_labels_beyond_the_classes_are_an_error(self):
        items = (Labelled("t", 2, 0),) * 4
        side = scored(items, log_probabilities=self.RIGHT)
        with pytest.raises(EvalError, match="labels 2 to 2, but the model has 2 classes"):
            accuracy_drop(side, side)


class TestEfficiency:
    def test_ratio_of_bytes(self):
        assert compression_ratio(400, 100).estimate.value == 4.0
        with pytest.raises(EvalError, match="compression ratio of"):
            compression_ratio(0, 100)

    def test_speedup_is_the_median_of_paired_ratios(self):
        seconds = np.array([[2.0, 1.0], [3.0, 1.0], [8.0, 2.0]] * 7)
        reading = speedup(seconds)
        assert reading.estimate.value == 3.0
        assert (reading.estimate.low, reading.estimate.high) == (2.0, 4.0)

    def test_what_was_not_timed_is_not_judged_and_neither_is_a_score_that_counts_it(self):
        base = scored(TestClassification.ITEMS, log_probabilities=TestClassification.RIGHT)
        task, size = accuracy_drop(base, base), compression_ratio(2, 1)
        untimed = not_judged("no kernel for it here")
        assert untimed.not_judged == "no kernel for it here"
        assert math.isnan(untimed.estimate.value)
        weights = {"task": 0.5, "size": 0.3, "speed": 0.2}
        assert weighted_score(weights, task, size, untimed).not_judged == untimed.not_judged
        judged = weighted_score({**weights, "speed": 0.0}, task, size, untimed)
        assert not judged.not_judged
        assert judged.estimate.value == pytest.approx(0.5 * 0.75 + 0.3 * 2)

    def test_the_speedup_that_a_score_needs_brings_it_to_its_limit(self):
        base = scored(TestClassification.ITEMS, log_probabilities=TestClassification.RIGHT)
        other = scored(TestClassification.ITEMS, log_probabilities=TestClassification.OTHER)
        task, size = accuracy_drop(base, other), compression_ratio(400, 100)
        weights = {"task": 0.5, "size": 0.3, "speed": 0.2}
        needed = speedup_needed(weights, 1.9, task, size)
        speed = speedup(np.full((21, 2), [needed, 1.0]))
        assert weighted_score(weights, task, size, speed).estimate.value == pytest.approx(1.9)

    def test_a_part_without_weight_counts_for_nothing_however_uncertain(self):
        base = scored(TestClassification.ITEMS, log_probabilities=TestClassification.RIGHT)
        reading = weighted_score(
            {"task": 1.0, "size": 0.0, "speed": 0.0},
            accuracy_drop(base, base), compression_ratio(2, 1), None,
        )  # fmt: skip
        assert reading.estimate.value == 0.75
        assert math.isfinite(reading.estimate.low)

    def test_weighted_score_is_the_study_s_formula(self):
        base = scored(TestClassification.ITEMS, log_probabilities=TestClassification.RIGHT)
        other = scored(TestClassification.ITEMS, log_probabilities=TestClassification.OTHER)
        task = accuracy_drop(base, other)
        reading = weighted_score(
            {"task": 0.5, "size": 0.3, "speed": 0.2},
            task, compression_ratio(400, 100), speedup(np.full((21, 2), [3.0, 2.0])),
        )  # fmt: skip
        assert reading.estimate.value == pytest.approx(0.5 * 0.75 + 0.3 * 4 + 0.2 * 1.5)
        assert reading.baseline == pytest.approx(0.5 * 0.75 + 0.3 + 0.2)
        # Only the accuracy is sampled, that of the candidate: 3 of 4 right.
        accuracy = stats.binomtest(3, 4).proportion_ci(0.95, method="exact")
        assert reading.estimate.high - reading.estimate.value == pytest.approx(
            0.5 * (accuracy.high - 0.75)
        )

    def test_a_weighted_score_knows_no_more_than_the_accuracy_that_it_weighs(self):
        # Both sides have the same 3 of 4 right, so the drop alone would say little of the level.
        base = scored(TestClassification.ITEMS, log_probabilities=TestClassification.RIGHT)
        task = accuracy_drop(base, base)
        parts = compression_ratio(2, 1), speedup(np.full((21, 2), [3.0, 2.0]))
        weights = {"task": 1.0, "size": 0.0, "speed": 0.0}
        reading = weighted_score(weights, task, *parts)
        accuracy = stats.binomtest(3, 4).proportion_ci(0.95, method="exact")
        assert (reading.estimate.low, reading.estimate.high) == pytest.approx(tuple(accuracy))
        with pytest.raises(ValueError, match="own score"):
            weighted_score(weights, replace(task, level=None), *parts)


def test_sides_from_different_protocols_are_not_compared():
    one = scored([Text("t", 0)], nll=[1.0])
    other = Scored(one.data, Measurement(one.measurement.arrays, {**ORIGIN, "protocol": "q"}))
    with pytest.raises(EvalError, match="not comparable: protocol is p"):
        check_paired(one, other)
