"""Documents of the rows of a data set."""

import hypothesis.strategies as st
from hypothesis import given

from compression_gates.evals.data.documents import document_indices, passages, shared_lines

PASSAGE = "Mara Holt is a baker and lives in Karsby by the river, where she keeps a silver kettle."


@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1))
def test_equal_keys_share_an_index_and_none_has_its_own(keys):
    indices = document_indices(keys)
    assert set(indices) == set(range(max(indices) + 1))
    for index, key in zip(indices, keys, strict=True):
        same = [other for other, theirs in zip(indices, keys, strict=True) if other == index]
        assert len(same) == (1 if key is None else keys.count(key))


def test_passage_is_the_column_with_repeated_values():
    rows = [{"id": i, "question": f"q{i}", "Passage": f"p{i // 2}"} for i in range(6)]
    assert passages(rows) == ["p0", "p0", "p1", "p1", "p2", "p2"]


def test_constant_and_distinct_columns_are_not_passages():
    assert passages([{"context": "same", "text": f"t{i}"} for i in range(4)]) is None
    assert passages([{"category": i // 2} for i in range(4)]) is None


def test_row_without_a_passage_is_its_own_document():
    rows = [{"story": "a"}, {"story": ""}, {"story": "a"}, {"story": "b"}]
    assert document_indices(passages(rows)) == [0, 1, 0, 2]


def test_shared_long_line_is_a_passage_unless_it_is_an_instruction():
    instruction = "Answer the question about the passage below in as few words as possible, please."
    prompts = [f"{instruction}\n{PASSAGE} {i // 2}\nQuestion {i}?" for i in range(6)]
    assert document_indices(shared_lines(prompts)) == [0, 0, 1, 1, 2, 2]
    assert shared_lines([f"{instruction}\nQuestion {i}?" for i in range(6)]) == [None] * 6
