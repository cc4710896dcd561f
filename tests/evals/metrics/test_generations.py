"""Metrics of generated texts on constructed cases, against loops over lists."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, CLASSIFIER, LOG, SEQ2SEQ
from compression_gates.evals.data.items import DataSet, Prompt
from compression_gates.evals.gates.explain import explain
from compression_gates.evals.gates.gate import (
    FAILED,
    NOT_JUDGED,
    PASSED,
    STRICT,
    Gate,
    unmeasured,
    verdict_of,
)
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.repetition_rise import repeated_share
from compression_gates.evals.metrics.result import NO_DATA, Scored
from compression_gates.evals.scores import Pair, Scores
from compression_gates.evals.store.measurement import Measurement

LENGTH, TRUNCATED, REPETITION, EMPTY = NAMES = (
    "generation_length_change", "truncated_generations", "repetition_rise", "empty_generations",
)  # fmt: skip
NEW = 12
END = 2


def side(texts, per_document: int = 1, **arrays) -> Scored:
    """What was generated: lists of tokens, of which the last is an end token or not."""
    tokens = np.full((len(texts), NEW), -1)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    items = tuple(Prompt(f"prompt {i}", "", i // per_document) for i in range(len(texts)))
    words = [" ".join(str(token) for token in text if token != END) for text in texts]
    base = {
        "tokens": tokens,
        "continuations": np.array(words),
        "ended": np.array([text[-1] == END for text in texts]),
        "empty": np.array([not word for word in words]),
        "finite": np.ones(len(texts), bool),
    }
    return Scored(DataSet("d", items), Measurement(base | arrays, {}))


def read(name, baseline, candidate, role="answers"):
    return METRICS[name].read(Pair(Scores({role: baseline}), Scores({role: candidate})))


TEXT = st.builds(
    lambda words, ends: [*words[: NEW - 1], END] if ends or not words else words,
    st.lists(st.integers(3, 6), max_size=NEW),
    st.booleans(),
)
TEXTS = st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=30)


@settings(max_examples=40)
@given(TEXTS)
def test_values_are_those_of_a_loop(pairs):
    before, after = zip(*pairs, strict=True)
    sides = side(before), side(after)
    ratio = sum(map(len, after)) / sum(map(len, before))
    expected = {
        LENGTH: math.exp(abs(math.log(ratio))) - 1,
        TRUNCATED: np.mean([b[-1] == END != a[-1] for b, a in pairs]),
        REPETITION: np.mean([repeated(a) - repeated(b) for b, a in pairs]),
        EMPTY: np.mean([a == [END] != b for b, a in pairs]),
    }
    for name, value in expected.items():
        found = read(name, *sides)
        if not found.not_judged:
            assert found.estimate.value == pytest.approx(value, abs=1e-12)
            assert found.estimate.low <= found.estimate.value <= found.estimate.high


def repeated(text: list[int], n: int = 4) -> float:
    counts = Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))
    total = sum(counts.values())
    return 1 - len(counts) / total if total else 0.0


@settings(max_examples=40)
@given(TEXTS)
def test_the_baseline_against_itself_has_none_of_the_defects(pairs):
    same = side([text for text, _ in pairs])
    for name in NAMES:
        found = read(name, same, same)
        if not found.not_judged:
            assert found.estimate.value == 0.0
            assert not found.worst
            assert verdict_of("c", Gate(name, 0.0), found).met


@settings(max_examples=15)
@given(TEXTS, st.randoms(use_true_random=False))
def test_the_order_of_documents_changes_nothing(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    for name in NAMES:
        one, two = (read(name, *map(side, zip(*both, strict=True))) for both in (pairs, shuffled))
        assert one.not_judged == two.not_judged
        if not one.not_judged:
            for part in ("value", "low", "high"):
                ends = [getattr(found.estimate, part) for found in (one, two)]
                assert ends[0] == pytest.approx(ends[1], abs=1e-9)


def test_a_better_candidate_never_fails():
    ended, endless, empty = [3, 4, 5, END], [3, 4] * 6, [END]
    for name, worse in ((TRUNCATED, endless), (EMPTY, empty), (REPETITION, endless)):
        baseline = side([worse] * 20 + [ended] * 20)
        found = read(name, baseline, side([ended] * 40))
        assert found.estimate.value <= 0.0
        assert verdict_of("c", Gate(name, 0.0), found).met
        broken = read(name, side([ended] * 40), baseline)
        assert verdict_of("c", Gate(name, 0.1), broken).outcome == FAILED


@pytest.mark.parametrize("factor", [2, 0.5])
def test_longer_and_shorter_texts_count_alike(factor):
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 7, size=60)
    short, long = ([[3] * (n * k - 1) + [END] for n in lengths] for k in (1, 2))
    sides = (short, long) if factor == 2 else (long, short)
    found = read(LENGTH, *map(side, sides))
    assert found.estimate.value == pytest.approx(1.0)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((1.0, 1.0), abs=1e-6)
    assert verdict_of("c", Gate(LENGTH, 0.5), found).outcome == FAILED
    means = [np.mean(list(map(len, texts))) for texts in sides[::-1]]
    assert found.reasons == (
        f"the answers have {means[0]:.1f} tokens on average, and the baseline's {means[1]:.1f}",
    )


def test_an_interval_of_a_length_ratio_that_contains_one_begins_at_zero():
    generator = np.random.default_rng(1)
    sides = [side([[3] * n + [END] for n in generator.integers(1, 11, size=60)]) for _ in range(2)]
    found = read(LENGTH, *sides).estimate
    assert found.low == 0.0
    assert 0 < found.value < found.high
    assert verdict_of("c", Gate(LENGTH, 0.5), read(LENGTH, *sides)).outcome == PASSED


def test_the_role_with_the_largest_value_counts():
    ended, endless = [3, 4, END], [3] * NEW
    healthy, broken = side([ended] * 40), side([endless] * 10 + [ended] * 30)
    roles = {"answers": healthy, "summaries": broken, "labels": broken}
    pair = Pair(Scores(dict.fromkeys(roles, healthy)), Scores(roles))
    found = METRICS[TRUNCATED].read(pair)
    assert found.estimate.value == 0.25
    assert found.facts["in_answers"] == 0.0
    assert found.facts["in_summaries"] == 0.25
    assert "in_labels" not in found.facts
    assert found.reasons == (
        "10 of 40 summaries do not end within 12 tokens, unlike the baseline's",
    )
    assert (found.estimate.n, found.items) == (80, None)
    alone = read(TRUNCATED, healthy, broken, "summaries")
    assert alone.items is not None
    # Bonferroni's interval of two is wider than that of one.
    assert found.estimate.low < alone.estimate.low < alone.estimate.high < found.estimate.high


@pytest.mark.parametrize("name", NAMES)
def test_logits_that_are_not_finite_fail(name):
    texts = [[3, 4, 5, 6, END]] * 20
    finite = np.ones(20, bool)
    finite[3] = False
    found = read(name, side(texts), side(texts, finite=finite))
    assert math.isnan(found.estimate.value)
    assert verdict_of("c", Gate(name, 0.9), found).outcome == FAILED
    assert not unmeasured("c", Gate(name, 0.9)).met


def test_a_defect_of_most_texts_of_the_baseline_is_not_judged():
    endless, empty = [[3] * NEW] * 9, [[END]] * 9
    found = read(TRUNCATED, side(endless), side(empty), "summaries")
    assert found.not_judged == ("9 of 9 summaries of the baseline do not end within 12 tokens")
    assert verdict_of("c", Gate(TRUNCATED, 0.1), found).outcome == NOT_JUDGED
    assert "9 of 9 answers of the baseline are empty" in read(EMPTY, *[side(empty)] * 2).not_judged
    for endless_texts, is_judged in ((4, True), (5, True), (6, False)):
        baseline = side([[3] * NEW] * endless_texts + [[3, END]] * (10 - endless_texts))
        assert bool(read(TRUNCATED, baseline, baseline).not_judged) != is_judged


def test_a_role_that_is_not_judged_leaves_the_others():
    endless, ended = side([[3] * NEW] * 9), side([[3, END]] * 9)
    pair = Pair(
        Scores({"answers": ended, "summaries": endless}),
        Scores({"answers": endless, "summaries": endless}),
    )
    found = METRICS[TRUNCATED].read(pair)
    assert not found.not_judged
    assert found.estimate.value == 1.0
    assert found.facts.keys() & {"in_answers", "in_summaries"} == {"in_answers"}


def test_continuations_are_cut_and_not_expected_to_end():
    sides = side([[3, END]] * 9), side([[3] * NEW] * 9)
    assert read(TRUNCATED, *sides, "continuations").not_judged.startswith(NO_DATA)
    assert read(REPETITION, *sides, "continuations").estimate.value > 0.5


def test_without_generated_texts_they_are_not_judged():
    for name in NAMES:
        assert METRICS[name].read(Pair(Scores({}), Scores({}))).not_judged.startswith(NO_DATA)
        ended = ("answers", "summaries")
        roles = ended if name == TRUNCATED else ("continuations", *ended)
        assert METRICS[name].needed_roles(CAUSAL) == roles
        assert METRICS[name].needed_roles(SEQ2SEQ) == ended
        assert METRICS[name].needed_roles(CLASSIFIER) is None
        assert METRICS[name].needed_roles(LOG) is None


@given(st.lists(st.lists(st.integers(0, 2), max_size=NEW), min_size=1, max_size=6),
       st.integers(1, 5))  # fmt: skip
def test_the_repeated_share_is_that_of_sets_of_tuples(texts, n):
    tokens = np.full((len(texts), NEW), -1)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    assert repeated_share(tokens, n).tolist() == [pytest.approx(repeated(t, n)) for t in texts]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [[3] * NEW, [END]])
def test_logits_that_are_not_finite_fail_also_if_the_baseline_is_defective(name, text):
    texts = [text] * 20
    found = read(name, side(texts), side(texts, finite=np.arange(20) != 3))
    assert verdict_of("c", Gate(name, 0.9), found).outcome == FAILED


def test_the_length_of_truncated_texts_is_not_judged_unless_it_changes():
    """A destroyed model that never ends has texts of the same length as a baseline that is cut."""
    cut = side([[3] * NEW] * 40)
    found = read(LENGTH, cut, side([[4] * NEW] * 40), "continuations")
    assert found.not_judged == "40 of 40 continuations of the baseline do not end within 12 tokens"
    assert verdict_of("c", Gate(LENGTH, 0.5), found).outcome == NOT_JUDGED
    few_end = side([[3, END]] + [[3] * NEW] * 39)
    assert read(LENGTH, cut, few_end, "continuations").not_judged
    early = read(LENGTH, cut, side([[3] * (2 + i % 3) + [END] for i in range(40)]))
    assert verdict_of("c", Gate(LENGTH, 0.5), early).outcome == FAILED
    half = side([[3] * NEW] * 20 + [[3, END]] * 20)
    assert not read(LENGTH, half, half).not_judged


def test_a_single_document_has_no_interval_of_a_length():
    texts = [[3] * n + [END] for n in range(1, 11)]
    found = read(LENGTH, side(texts, 10), side([[*text[:-1], 3, END] for text in texts], 10))
    assert (found.estimate.low, found.estimate.high) == (-math.inf, math.inf)


def test_a_role_that_is_not_judged_is_named():
    endless, ended = side([[3] * NEW] * 40), side([[3, 4, END]] * 40)
    roles = {"continuations": endless, "answers": ended}
    found = METRICS[LENGTH].read(Pair(Scores(roles), Scores(roles)))
    verdict = verdict_of("c", Gate(LENGTH, 0.5), found)
    assert verdict.outcome == PASSED
    reason = "40 of 40 continuations of the baseline do not end within 12 tokens"
    assert found.evidence == (f"continuations not judged: {reason}",)
    text = explain(verdict, Gate(LENGTH, 0.5), found, "", STRICT)
    assert f"  also       continuations not judged: {reason}" in text.splitlines()
    both = {"continuations": ended, "answers": ended}
    assert METRICS[LENGTH].read(Pair(Scores(both), Scores(both))).evidence == ()
