"""Lines of a log about one passage are of one document."""

import numpy as np

from compression_gates.evals.lm_eval.sample_scores import TaskReader, documents_of
from compression_gates.evals.metrics.answer_scores import exact_match_drop
from compression_gates.evals.metrics.perplexity import perplexity_drift

CONFIG = {"output_type": "generate_until"}


def lines(scores, field="passage", **more):
    return [
        {
            "doc_id": index,
            "doc": {"id": index, field: f"passage {index // 5}", "question": f"q{index}"},
            "arguments": {"gen_args_0": {"arg_0": f"q{index}"}},
            "target": "x",
            "resps": [["x"]],
            "filtered_resps": ["x"],
            "exact_match": score,
            **{name: values[index] for name, values in more.items()},
        }
        for index, score in enumerate(scores)
    ]


def test_questions_about_a_passage_share_its_document():
    for field in ("passage", "context", "article", "paragraph", "story"):
        assert documents_of(lines([1.0] * 10, field)) == [0] * 5 + [1] * 5
    assert documents_of(lines([1.0] * 10, "url")) == list(range(10))
    assert documents_of([{"doc_id": 0, "doc": "a text"}, {"doc_id": 1}]) == [0, 1]


def test_an_interval_takes_passages_for_independent_not_lines():
    before, after = np.ones(200), np.repeat(np.arange(40) % 8 > 0, 5).astype(float)
    (found,) = TaskReader("t", CONFIG).read(lines(before), lines(after))
    (apart,) = TaskReader("t", CONFIG).read(lines(before, "url"), lines(after, "url"))
    own, other = (
        exact_match_drop(one.baseline["answers"], one.candidate["answers"]).estimate
        for one in (found, apart)
    )
    assert own.value == other.value == 1 / 8
    assert (own.clusters, other.clusters) == (40, 200)
    assert own.high - own.low > 1.5 * (other.high - other.low)


def test_losses_of_pages_of_one_article_are_of_one_document():
    losses = {"word_perplexity": [(-4.0, 4)] * 10}
    rows = [{k: v for k, v in line.items() if k != "exact_match"}
            for line in lines([1.0] * 10, "article", **losses)]  # fmt: skip
    (found,) = TaskReader("t", CONFIG).read(rows, rows)
    estimate = perplexity_drift(found.baseline["text"], found.candidate["text"]).estimate
    assert (estimate.n, estimate.clusters) == (40, 2)
