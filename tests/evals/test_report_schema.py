import json
from dataclasses import asdict

import jsonschema
import pytest

from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.decision import Decision
from compression_gates.evals.gates.earlier import read_earlier_run
from compression_gates.evals.report import report_folder
from compression_gates.evals.report.report_rows import read_report
from compression_gates.evals.report.schema import KINDS, VERSION, json_schema, schema_row
from compression_gates.evals.report.trends import trend_rows
from tests.evals import pages

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
KIND = {
    kind.__name__: jsonschema.Draft202012Validator(
        {"$ref": f"#/$defs/{kind.__name__}", "$defs": SCHEMA["$defs"]}
    )
    for kind in KINDS
}


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert f"version {VERSION}" in SCHEMA["title"]


def test_the_rows_of_a_report_follow_the_schema(tmp_path):
    decision = Decision("release", "all", {"m-a": Decision("cannot tell", "too few items")})
    more = [
        decision.row(),
        {"notes": ["a"]},
        {"group": "m", "weights": {"task": 0.6, "size": 0.2, "speed": 0.2}},
    ]
    entries = pages.small_report()
    more += trend_rows(pages.trends(entries[:1]))
    report_folder.write(tmp_path, entries, "", more)
    rows = read_report(tmp_path).rows
    assert rows[0] == schema_row()
    for row in rows:
        VALIDATOR.validate(row)
    KIND["DecisionRow"].validate(decision.row())
    assert sum(KIND["TrendRow"].is_valid(row) for row in rows) == 1
    assert sum(KIND["Entry"].is_valid(row) for row in rows) == len(entries)


@pytest.mark.parametrize(
    ("key", "value"), [("passed", "yes"), ("verdict", None), ("facts", []), ("group", 3)]
)
def test_a_row_with_a_wrong_value_does_not_follow_it(key, value):
    [row, *_] = report_folder.report_rows(pages.small_report())
    KIND["Entry"].validate(row)
    assert not VALIDATOR.is_valid(row | {key: value})


def test_a_number_that_is_not_finite_is_null():
    [row, *_] = report_folder.report_rows(pages.small_report())
    assert KIND["Entry"].is_valid(row | {"verdict": row["verdict"] | {"low": None}})
    assert not KIND["Entry"].is_valid(row | {"verdict": row["verdict"] | {"n": None}})


def test_keys_that_a_later_version_adds_are_allowed():
    [row, *_] = report_folder.report_rows(pages.small_report())
    KIND["Entry"].validate(row | {"new": 1})
    assert asdict(pages.small_report()[0])["row"] == row["row"]


@pytest.mark.parametrize("read", [read_report, read_earlier_run])
def test_a_report_of_a_later_version_is_refused(tmp_path, read):
    row = {"schema": {"name": "compression_gates.report", "version": VERSION + 1}}
    (tmp_path / "report.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(EvalError, match=r"later version of compression-gates.*update"):
        read(tmp_path)
