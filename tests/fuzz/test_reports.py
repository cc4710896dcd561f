"""Damaged and forged reports that a later run is compared with."""

import io
import math
from pathlib import Path
from random import Random

import numpy as np

from compression_gates.evals.gates.earlier import Record, read_earlier_run
from compression_gates.evals.gates.gate import Gate, verdict_of
from compression_gates.evals.gates.nightly import compare_runs
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.report import report, report_folder
from compression_gates.evals.report.report_rows import REPORT
from compression_gates.evals.statistics.item_values import (
    FILE,
    MEAN,
    SCORE_CHANGE,
    ItemValues,
    digest_of,
    pack,
    unpack,
)
from tests.fuzz.mutations import mutated_bytes, mutated_json_lines
from tests.fuzz.test_stores import forged

ORIGIN = {"baseline": "b", "data": "d", "protocol": "p"}


def items(kind: str, seed: int) -> ItemValues:
    values = np.random.default_rng(seed).integers(0, 2, 40).astype(np.float32)
    return ItemValues(kind, values, np.ones(40, np.int32), np.arange(40, dtype=np.int32), ORIGIN)


def run(seed: int):
    entries, values = [], {}
    for metric, kind in (("js_divergence", MEAN), ("accuracy_drop", SCORE_CHANGE)):
        for name in ("one", "two"):
            own = values[name, metric] = items(kind, seed)
            verdict = verdict_of(name, Gate(metric, 0.05), MetricResult(own.estimate(), 0.0, 0.0))
            entries.append(report.Entry("base", name, verdict, True))
    return entries, values


class Reports:
    """Compares a run with other reports than the one that was written."""

    def __init__(self, folder: Path):
        (then, values), (now, mine) = run(1), run(2)
        report_folder.write(folder, then, "", items=values)
        self.folder = folder
        self.whole = {name: (folder / name).read_bytes() for name in (REPORT, FILE)}
        self.records = [
            Record.of(e.verdict, {}, mine[e.verdict.candidate, e.verdict.metric]) for e in now
        ]

    def __call__(self, rng: Random) -> None:
        found = dict(self.whole)
        match rng.randrange(3):
            case 0:
                found[REPORT] = mutated_json_lines(rng, self.whole[REPORT])
                values = unpack(self.whole[FILE], FILE)[0]
                found[FILE] = pack(values, digest_of(found[REPORT]))  # they are not left out
            case 1:
                found[FILE] = mutated_bytes(rng, self.whole[FILE])
            case _:
                found[FILE] = self.forged_items(rng)
        for name, content in found.items():
            (self.folder / name).write_bytes(content)
        result = compare_runs(self.records, read_earlier_run(self.folder))
        assert all(isinstance(line, str) for line in result.lines())
        for change in result.changes:
            assert 0 <= change.p <= 1
            # A gate that was not a number before cannot have got worse.
            assert not math.isnan(change.before) or (change.p == 1 and not change.worse)

    def forged_items(self, rng: Random) -> bytes:
        with np.load(io.BytesIO(self.whole[FILE])) as stored:
            arrays = {name: stored[name] for name in stored.files}
        name = rng.choice(list(arrays))
        arrays[name] = forged(rng, arrays[name])
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        return stream.getvalue()


def test_reports(each, tmp_path):
    each(200, Reports, tmp_path, share=0.2)
