import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from compression_gates.evals.statistics.changes import clustered_sign_test, mcnemar, sign_flip_test


def test_mcnemar_agrees_with_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar as theirs

    for losses in range(12):
        for gains in range(12):
            whole = theirs([[5, losses], [gains, 5]], exact=True).pvalue if losses + gains else 1.0
            point = stats.binom.pmf(min(losses, gains), losses + gains, 0.5)
            # Mid-p takes off the probability of what was seen, counted once of its two tails.
            expected = 1.0 if losses == gains else whole - point
            assert mcnemar(losses, gains) == pytest.approx(expected)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_with_one_item_a_document_it_is_mcnemar_s_mid_p(losses, gains, same):
    changes = [1] * losses + [-1] * gains + [0] * same
    assert clustered_sign_test(changes, np.arange(len(changes))) == pytest.approx(
        mcnemar(losses, gains)
    )


@given(st.lists(st.lists(st.integers(-1, 1), min_size=1, max_size=5), min_size=1, max_size=9))
def test_it_is_the_sign_flipping_test_of_documents_by_enumeration(documents):
    changes = [change for document in documents for change in document]
    clusters = [g for g, document in enumerate(documents) for _ in document]
    net = np.array([sum(document) for document in documents])
    seen = abs(net.sum())
    sums = np.array(
        [abs(np.dot(signs, net)) for signs in itertools.product((-1, 1), repeat=len(net))]
    )
    expected = 1.0 if seen == 0 else np.mean(sums > seen) + np.mean(sums == seen) / 2
    assert clustered_sign_test(changes, clusters) == pytest.approx(expected)


def test_the_size_of_a_change_does_not_matter_nor_the_name_of_a_document():
    changes, clusters = [0.5, 0.1, -0.2, 1.0], ["b", "b", "a", "c"]
    assert clustered_sign_test(changes, clusters) == clustered_sign_test(
        [1, 1, -1, 1], [0, 0, 1, 2]
    )


def test_items_that_share_the_fate_of_their_document_are_one_change():
    # 10 documents lose all 20 items, 5 gain all: by item 200 against 100, by document 10 against 5.
    changes = np.repeat([1] * 10 + [-1] * 5, 20)
    clusters = np.repeat(np.arange(15), 20)
    assert clustered_sign_test(changes, clusters) == pytest.approx(mcnemar(10, 5))
    assert mcnemar(200, 100) < 1e-8


@pytest.mark.parametrize(
    "net", [[], [0, 0], [1], [-1], [3, -1, 2], [1, 1, 1, 1, -1], [5, -5, 2, 0, 7], [-2, -4, 1]]
)
def test_the_sign_flip_test_counts_all_signs(net):
    sums = [
        sum(sign * abs(change) for sign, change in zip(signs, net, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(net))
    ]
    expected = sum(total >= sum(net) for total in sums) / len(sums)
    assert sign_flip_test(net) == pytest.approx(expected)


def test_the_sign_flip_test_of_single_changes_is_binomial():
    expected = stats.binomtest(40, 52, alternative="greater").pvalue
    assert sign_flip_test([1] * 40 + [-1] * 12 + [0] * 500) == pytest.approx(expected)
    assert sign_flip_test([6] * 40 + [-6] * 12) == pytest.approx(expected)
