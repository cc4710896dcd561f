"""Documents that rows belong to."""

import hypothesis.strategies as st
from hypothesis import given

from compression_gates.evals.data.documents import document_indices, passages, shared_lines

PASSAGE = "Mara Holt is a baker and lives in Karsby by the river, where she keeps a silver kettle."


@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1))
def test_equal_keys_share_a_number_and_none_shares_one(keys):
    found = document_indices(keys)
    assert set(found) == set(range(max(found) + 1))
    for one, key in zip(found, keys, strict=True):
        same = [other for other, theirs in zip(found, keys, strict=True) if other == one]
        assert len(same) == (1 if key is None else keys.count(key))


def test_the_passage_is_the_column_that_recurs():
    rows = [{"id": i, "question": f"q{i}", "Passage": f"p{i // 2}"} for i in range(6)]
    assert passages(rows) == ["p0", "p0", "p1", "p1", "p2", "p2"]


def test_neither_a_constant_nor_a_column_of_distinct_values_is_a_passage():
    assert passages([{"context": "same", "text": f"t{i}"} for i in range(4)]) is None
    assert passages([{"category": i // 2} for i in range(4)]) is None


def test_a_row_without_a_passage_is_by_itself():
    rows = [{"story": "a"}, {"story": ""}, {"story": "a"}, {"story": "b"}]
    assert document_indices(passages(rows)) == [0, 1, 0, 2]


def test_a_long_line_that_prompts_share_is_their_passage_an_instruction_is_none():
    told = "Answer the question about the passage below in as few words as you can, and no more."
    prompts = [f"{told}\n{PASSAGE} {i // 2}\nQuestion {i}?" for i in range(6)]
    assert document_indices(shared_lines(prompts)) == [0, 0, 1, 1, 2, 2]
    assert shared_lines([f"{told}\nQuestion {i}?" for i in range(6)]) == [None] * 6
