"""What the released lm-evaluation-harness measured goes through the same gates."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from compression_gates.evals.errors import EvalError
from compression_gates.evals.lm_eval.log import is_log, read_log
from compression_gates.evals.lm_eval.pairing import paired
from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end.conftest import compress, run_gates

BASE = MODELS / "llama-tiny"
COUNT = 16
PASSAGES = [corpus.passage("held-out", index) for index in range(COUNT)]

TASKS = {
    "tiny_choice": """
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_target: gold
doc_to_choice: choices
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "tiny_answer": """
output_type: generate_until
doc_to_text: "{{query}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 16, do_sample: false}
metric_list: [{metric: exact_match, ignore_case: true, ignore_punctuation: true}]
filter_list:
  - {name: whole, filter: [{function: remove_whitespace}, {function: take_first}]}
  - name: first-word
    filter: [{function: regex, regex_pattern: '(\\S+)'}, {function: take_first}]
""",
    "tiny_last_word": """
output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
metric_list: [{metric: perplexity}, {metric: acc}]
""",
    # The task itself, on documents of ours.
    "wikitext": None,
}
COMMON = """
task: {name}
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{test: {file}}}}}
training_split: null
validation_split: null
test_split: test
metadata: {{version: 1.0}}
"""


def write_tasks(folder: Path) -> None:
    rows = []
    for passage in PASSAGES:
        question, other = passage.questions[:2]
        rows.append(
            {
                "query": corpus.question_prompt(passage.text, question.text),
                "answer": question.answer,
                "choices": [other.answer, question.answer],
                "gold": 1,
                "text": f"{passage.text} {question.answer.split()[0]}",
                "page": passage.text,
            }
        )
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bundled = Path(find_spec("lm_eval").origin).parent / "tasks" / "wikitext" / "wikitext.yaml"
    for name, text in TASKS.items():
        text = text or f"include: {bundled}\n"
        own = COMMON.format(name=name if name != "wikitext" else "tiny_pages", file=file)
        (folder / f"{name}.yaml").write_text(text + own)


@pytest.fixture(scope="module")
def candidate(tmp_path_factory):
    out = tmp_path_factory.mktemp("candidate") / "magnitude"
    done = compress("magnitude-50", "--model", BASE, "--output", out)
    assert done.returncode == 0, done.stderr
    return out


# Each line is the command line of a run; importing the harness takes longer than running it, and
# reading the thousands of tasks that it brings along takes longest.
RUNS = """
import functools, json, sys
from lm_eval.__main__ import cli_evaluate
from lm_eval.tasks import TaskManager
TaskManager.__init__ = functools.partialmethod(TaskManager.__init__, include_defaults=False)
for line in sys.stdin:
    sys.argv = ["lm_eval", *json.loads(line)]
    cli_evaluate()
"""


@pytest.fixture(scope="module")
def logs(candidate, tmp_path_factory) -> list[Path]:
    """What lm-eval's command line writes of the baseline and of the candidate."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("harness")
    write_tasks(folder)
    names = ",".join(n if n != "wikitext" else "tiny_pages" for n in TASKS)
    outputs = [folder / "run-0", folder / "run-1"]
    lines = []
    for model, output in zip((BASE, candidate), outputs, strict=True):
        # One token begins a text for the harness and for the model; without this it would begin
        # with two.
        settings = f"pretrained={model},dtype=float32,add_bos_token=False"
        words = [
            "--model", "hf", "--model_args", settings,
            "--device", "cpu", "--tasks", names, "--include_path", folder, "--log_samples",
            "--output_path", output, "--batch_size", "8",
        ]  # fmt: skip
        lines.append(json.dumps(list(map(str, words))))
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
               "HF_HOME": str(folder / "cache")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", RUNS], input="\n".join(lines), cwd=folder, env=offline,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [next(output.rglob("results_*.json")) for output in outputs]


@pytest.fixture(scope="module")
def judged(logs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    done = run_gates("--baseline", logs[0].parent, "--candidate", logs[1], "--report", folder,
                     store=folder / "store")  # fmt: skip
    rows = [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "verdict" in row]
    return done, {(row["group"].split()[0], row["verdict"]["metric"]): row for row in rows}


@pytest.mark.parametrize(
    ("task", "metric", "theirs"),
    [
        ("tiny_choice", "accuracy_drop", "acc,none"),
        ("tiny_choice-acc_norm", "accuracy_drop", "acc_norm,none"),
        ("tiny_answer-whole", "exact_match_drop", "exact_match,whole"),
        ("tiny_answer-first-word", "exact_match_drop", "exact_match,first-word"),
        ("tiny_last_word", "perplexity_drift", "perplexity,none"),
        ("tiny_last_word", "accuracy_drop", "acc,none"),
        ("tiny_pages", "perplexity_drift", "word_perplexity,none"),
    ],
)
def test_the_numbers_are_the_harness_s_own(task, metric, theirs, logs, judged):
    own = task.partition("-")[0]
    verdict = judged[1][task, metric]["verdict"]
    for log, value in zip(logs, (verdict["baseline"], verdict["measured"]), strict=True):
        expected = json.loads(log.read_text())["results"][own][theirs]
        assert value == pytest.approx(expected, rel=1e-9)
    assert verdict["clusters"] == COUNT
    if not verdict["baseline"]:
        assert verdict["outcome"] == "not judged"  # an accuracy of 0 % is nothing to lose


def test_a_candidate_that_lost_its_answers_fails(judged):
    done, rows = judged
    assert done.returncode == 1
    row = rows["tiny_answer-whole", "exact_match_drop"]
    assert not row["passed"]
    assert row["facts"]["worse"] > row["facts"]["better"]
    assert "exact match -" in done.stdout
    assert "lm-eval log" in done.stdout
    assert rows["tiny_choice", "js_divergence"]["verdict"]["value"] > 0
    assert ("tiny_choice", "flips") in rows


def test_word_and_byte_perplexity_are_ours_where_the_protocols_coincide(logs, tmp_path):
    """They coincide for documents of one window and one beginning.

    They do not where a document is longer: the harness fills its last window up with context that
    it has predicted already, and here windows are disjoint, as the papers have them. Nor where the
    tokenizer puts a beginning before every text: since 0.4.9.2 the harness puts one before that,
    and has the second predicted from the first.
    """
    text = tmp_path / "pages.jsonl"
    text.write_text("".join(json.dumps({"text": p.text}) + "\n" for p in PASSAGES))
    profile = tmp_path / "perplexity.toml"
    profile.write_text('[[suite]]\nkind = "causal"\n\n[suite.gates]\nperplexity_drift = 0.05\n')
    run_gates("--profile", profile, "--baseline", BASE, "--candidate", BASE, "--text", text,
              "--report", tmp_path, "-k", "perplexity", store=tmp_path / "store")  # fmt: skip
    facts = json.loads((tmp_path / "report.jsonl").read_text().splitlines()[1])["facts"]
    theirs = json.loads(logs[0].read_text())["results"]["tiny_pages"]
    assert facts["word_perplexity"] == pytest.approx(theirs["word_perplexity,none"], rel=1e-3)
    assert facts["byte_perplexity"] == pytest.approx(theirs["byte_perplexity,none"], rel=1e-3)


def rewritten(log: Path, folder: Path, change) -> Path:
    """A copy of a run that says something else of itself."""
    copy = folder / log.parent.name
    shutil.copytree(log.parent, copy)
    results = json.loads(log.read_text())
    change(results)
    (copy / log.name).write_text(json.dumps(results))
    return copy / log.name


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda r: r["config"]["model_args"].pop("add_bos_token"),
            "differ in the model argument add_bos_token: False for the baseline, None for",
        ),
        (lambda r: r.update(lm_eval_version="0.4.8"), "differ in lm-eval: "),
        (lambda r: r.update(chat_template_sha="x"), "differ in chat template: None for"),
        (lambda r: r["n-shot"].update(tiny_choice=5), "tiny_choice: the n-shot differs: 0 for"),
        (lambda r: r["versions"].update(tiny_choice=2), "tiny_choice: the version differs"),
        (
            lambda r: r["configs"]["tiny_answer"]["generation_kwargs"].update(max_gen_toks=1),
            "tiny_answer: its generation_kwargs differs",
        ),
        (lambda r: r["configs"].pop("tiny_answer"), "the tasks differ: tiny_answer"),
        (lambda r: r.update(configs=[1]), "not a valid log of lm-eval|samples_1_.* is missing"),
    ],
)
def test_runs_that_differ_are_refused(logs, tmp_path, change, complaint):
    other = rewritten(logs[1], tmp_path, change)

    def pair():
        return paired(read_log(str(logs[0])), read_log(str(other)))

    with pytest.raises(EvalError, match=complaint) as caught:
        pair()
    assert "\n" not in str(caught.value)


def test_what_cannot_be_paired_is_a_wrong_use(logs, tmp_path):
    other = rewritten(logs[1], tmp_path, lambda r: r["n-shot"].update(tiny_choice=5))
    done = run_gates("--baseline", logs[0], "--candidate", other, store=tmp_path / "store")
    assert done.returncode == 4
    assert "the n-shot differs: 0 for the baseline, 5 for the candidate" in done.stderr
    assert "Traceback" not in done.stderr


def changed(log: Path, folder: Path, change) -> Path:
    """A copy of a run whose lines of one task were changed."""
    copy = folder / log.parent.name
    shutil.copytree(log.parent, copy)
    file = next(copy.glob("samples_tiny_choice_*.jsonl"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = change(rows)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return copy / log.name


def replaced(name):
    return lambda rows: [{**rows[0], name: "0" * 64}, *rows[1:]]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (replaced("doc_hash"), "tiny_choice: document 0 is not in the candidate's log"),
        (replaced("prompt_hash"), "tiny_choice: the prompt of document 0 differs"),
        (replaced("target_hash"), "tiny_choice: the target of document 0 differs"),
        (lambda rows: rows[1:], "tiny_choice: document 0 is not in the candidate's log"),
        (lambda rows: [*rows, rows[0]], "16 documents for the baseline, 17 for the candidate"),
        (lambda rows: [{"a": 1}], "line 1 is not a sample of lm-eval"),
    ],
)
def test_documents_that_differ_are_refused(logs, tmp_path, change, complaint):
    with pytest.raises(EvalError, match=complaint):
        paired(read_log(str(logs[0])), read_log(str(changed(logs[1], tmp_path, change))))


def test_the_order_of_documents_does_not_matter(logs, tmp_path):
    shuffled = changed(logs[1], tmp_path, lambda rows: rows[::-1])
    one = paired(read_log(str(logs[0])), read_log(str(logs[1])))
    two = paired(read_log(str(logs[0])), read_log(str(shuffled)))
    for before, after in zip(one, two, strict=True):
        if before.candidate.get("labels") is not None:
            values = [x.candidate["labels"]["right"].tolist() for x in (before, after)]
            assert values[0] == values[1]


def test_lines_of_old_releases_name_no_filter_and_no_metrics(logs, tmp_path):
    def old(rows):
        return [{k: v for k, v in row.items() if k not in ("filter", "metrics")} for row in rows]

    logs = [changed(log, tmp_path / str(i), old) for i, log in enumerate(logs)]
    found = {row.name for row in paired(*map(read_log, map(str, logs)))}
    assert {"tiny_choice", "tiny_choice-acc_norm"} <= found


def test_what_is_no_log(tmp_path, logs):
    assert not is_log(str(BASE))
    assert not is_log("someone/model")
    assert is_log(str(logs[0]))
    assert is_log(str(logs[0].parent))
    both = tmp_path / "both"
    shutil.copytree(logs[0].parent, both / "one")
    shutil.copytree(logs[1].parent, both / "two")
    with pytest.raises(EvalError, match="contains 2 runs; give the results file of one"):
        read_log(str(both))
    next(both.glob("one/samples_tiny_choice_*")).unlink()
    with pytest.raises(EvalError, match="run lm-eval with --log_samples"):
        read_log(str(both / "one"))


def test_a_log_and_a_checkpoint_do_not_go_together(logs, tmp_path):
    done = run_gates("--baseline", logs[0], "--candidate", BASE, store=tmp_path / "store")
    assert done.returncode == 4
    assert "is not a log of lm-eval, but --baseline is" in done.stderr
