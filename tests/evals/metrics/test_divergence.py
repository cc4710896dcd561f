"""Divergences of predictions against scipy."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr

from compression_gates.evals.data.items import Labelled
from compression_gates.evals.metrics.prediction_divergence import divergences, js_divergence
from tests.evals.scores import logits, scored


class TestDivergence:
    @pytest.mark.parametrize("vocabulary", [2, 50, 32_000])
    def test_agrees_with_scipy_over_the_whole_vocabulary(self, vocabulary):
        log_p, log_q = (log_softmax(logits(seed, 5, vocabulary), axis=1) for seed in (0, 1))
        js, forward, backward = divergences(torch.tensor(log_p), torch.tensor(log_q))
        p, q = np.exp(log_p), np.exp(log_q)
        np.testing.assert_allclose(js, jensenshannon(p, q, axis=1) ** 2, rtol=1e-10)
        np.testing.assert_allclose(forward, rel_entr(p, q).sum(1), rtol=1e-10)
        np.testing.assert_allclose(backward, rel_entr(q, p).sum(1), rtol=1e-10)

    @given(st.integers(0, 1000), st.floats(0, 60))
    def test_is_symmetric_bounded_and_zero_only_for_equals(self, seed, spread):
        log_p, log_q = (
            torch.tensor(log_softmax(logits(seed + i, 3, 20, spread=spread), axis=1))
            for i in (0, 1)
        )
        js = divergences(log_p, log_q)[0]
        torch.testing.assert_close(js, divergences(log_q, log_p)[0])
        assert (js >= 0).all()
        assert (js <= math.log(2) + 1e-12).all()
        assert all((x == 0).all() for x in divergences(log_p, log_p))

    def test_is_over_the_vocabulary_and_not_over_positions(self):
        # Adding a constant to all logits of a position changes no distribution over the
        # vocabulary, but every softmax over positions.
        one = torch.tensor(logits(0, 6, 9))
        two = one + torch.arange(6.0, dtype=torch.float64)[:, None]
        js = divergences(one.log_softmax(-1), two.log_softmax(-1))[0]
        assert js.max() < 1e-15
        assert divergences(one.log_softmax(0), two.log_softmax(0))[0].max() > 0.1

    def test_impossible_entries_are_infinite_in_kl_and_finite_in_js(self):
        log_p = torch.tensor([[0.0, -math.inf, -math.inf]])
        log_q = torch.tensor([[-math.inf, 0.0, -math.inf]])
        js, forward, backward = divergences(log_p, log_q)
        assert js.item() == pytest.approx(math.log(2))
        assert forward.item() == backward.item() == math.inf

    def test_nan_is_never_taken_for_agreement(self):
        broken = torch.full((1, 4), math.nan)
        fine = torch.zeros(1, 4).log_softmax(-1)
        assert all(x.isnan().all() for x in divergences(fine, broken))

    def test_classes(self):
        items = [Labelled("a", 0, 0), Labelled("b", 1, 1), Labelled("c", 1, 2)]
        one, two = (log_softmax(logits(seed, 3, 2), axis=1) for seed in (0, 1))
        reading = js_divergence(
            scored(items, log_probabilities=one), scored(items, log_probabilities=two)
        )
        expected = jensenshannon(np.exp(one), np.exp(two), axis=1) ** 2
        assert reading.estimate.value == pytest.approx(expected.mean())
        assert {item.prompt for item in reading.worst.items} == {"a", "b", "c"}

    def test_a_few_inputs_that_diverge_do_not_make_anything_possible(self):
        items = [Labelled(f"t{i}", 0, i) for i in range(160)]
        sure = np.log(np.tile([[0.9, 0.1]], (160, 1)))
        for changed in (0, 1, 2, 3):
            other = sure.copy()
            other[:changed] = np.log([[0.85, 0.15]])
            found = js_divergence(
                scored(items, log_probabilities=sure), scored(items, log_probabilities=other)
            ).estimate
            assert found.unreliable == ""
            assert found.high <= 0.01 * math.log(2)
            assert (found.high == 0.0) == (changed == 0)
