"""The JSON schema of the rows of ``report.jsonl``.

python -m compression_gates.evals.report.schema

The file has one JSON object per line. The first one names this schema and its version. Each of the
others is of one of the kinds below, which its keys tell apart. NaN and infinity are null. Readers
have to ignore keys and kinds of rows that they do not know: these are added without a new version.
The version increases if the meaning of a key changes, or if a key is removed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compression_gates.evals.checkpoints.findings import CheckpointComparison
from compression_gates.evals.errors import EvalError
from compression_gates.evals.report.coverage import Coverage
from compression_gates.evals.report.report import Entry

NAME, VERSION = "compression_gates.report", 1


@dataclass(frozen=True)
class ReportVersion:
    """Name and version of the schema, in the first row."""

    name: str
    version: int


@dataclass(frozen=True)
class SchemaRow:
    """The schema that the file follows."""

    schema: ReportVersion


@dataclass(frozen=True)
class DecisionWords:
    """The decision about a candidate."""

    word: str
    reason: str


@dataclass(frozen=True)
class RunDecision(DecisionWords):
    """The decision about a run: release, do not release, or cannot tell."""

    candidates: Mapping[str, DecisionWords]


@dataclass(frozen=True)
class DecisionRow:
    """The decision that the run ended with."""

    decision: RunDecision


@dataclass(frozen=True)
class DefectRow:
    """A planted defect, the gates that caught it, and the module that attribution named."""

    defect: str
    what: str
    baseline: str
    caught: str = ""
    worst_module: str = ""


@dataclass(frozen=True)
class ComparisonRow:
    """The comparison of a candidate's checkpoint with its baseline's."""

    candidate: str
    comparison: CheckpointComparison


@dataclass(frozen=True)
class CoverageRow:
    """What the data of a baseline exercise."""

    coverage: Coverage


@dataclass(frozen=True)
class NoiseRow:
    """The drift of a metric of a baseline from itself, by what the second scoring changed."""

    noise_floor: Mapping[str, float | str]


@dataclass(frozen=True)
class ManifestRow:
    """What produced the run: models, data, protocols, versions, seeds and the machine."""

    manifest: Mapping[str, object]


@dataclass(frozen=True)
class HistoryRow:
    """The comparison with the reference of a history."""

    history: Mapping[str, object]


@dataclass(frozen=True)
class WeightsRow:
    """The weights of quality, size and speed by which candidates of a baseline are ranked."""

    group: str
    weights: Mapping[str, float]


@dataclass(frozen=True)
class ComparedRuns:
    """The lines of a comparison with an earlier run, and the change of each gate."""

    lines: Sequence[str]
    changes: Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class SinceRow:
    """The comparison with an earlier run, as the page shows it."""

    since: ComparedRuns


@dataclass(frozen=True)
class TrendRow:
    """The values of a gate over the runs of a history, and the steps in them."""

    trend: Mapping[str, object]


@dataclass(frozen=True)
class NotesRow:
    """The notes of the summary."""

    notes: Sequence[str]


@dataclass(frozen=True)
class ErrorRow:
    """Why the run did not start or end."""

    error: str


KINDS = (
    SchemaRow, DecisionRow, Entry, DefectRow, ComparisonRow, CoverageRow, NoiseRow, ManifestRow,
    HistoryRow, WeightsRow, SinceRow, TrendRow, NotesRow, ErrorRow,
)  # fmt: skip


def schema_row() -> dict[str, object]:
    """Return the first row of a report."""
    return {"schema": {"name": NAME, "version": VERSION}}


def check_version(row: Mapping[str, object], name: str) -> None:
    """Raise an EvalError if a row names a later version of the schema than this one.

    Args:
        row: of the report.
        name: of the report, for the error message.
    """
    schema = row.get("schema")
    version = schema.get("version") if isinstance(schema, Mapping) else None
    if isinstance(version, int) and version > VERSION:
        raise EvalError(
            f"{name}: it was written by a later version of compression-gates (schema "
            f"{version}, and this version reads {VERSION}); update compression-gates"
        )


def json_schema() -> dict[str, object]:
    """Return the JSON schema (draft 2020-12) of a row."""
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema

    class NullableNumbers(GenerateJsonSchema):
        def float_schema(self, schema):
            return {"type": ["number", "null"]}

    inputs = [(kind.__name__, "validation", TypeAdapter(kind).core_schema) for kind in KINDS]
    generator = NullableNumbers(ref_template="#/$defs/{model}")
    kinds, definitions = generator.generate_definitions(inputs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{NAME}, version {VERSION}",
        "anyOf": [kinds[kind.__name__, "validation"] for kind in KINDS],
        "$defs": definitions,
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
