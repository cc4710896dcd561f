"""What produced a run."""

import getpass
import json
import platform
from pathlib import Path

from compression_gates.evals.gates.gate import Gate, verdict_of
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.report.manifest import RunSettings, manifest_of, versions
from compression_gates.evals.report.report import Entry
from compression_gates.evals.statistics.estimate import exact


def entry(candidate, metric="flips", **fields):
    verdict = verdict_of(candidate, Gate(metric, 0.1), MetricResult(exact(0.0), 0.0, 0.0))
    return Entry("base", candidate, verdict, True, **fields)


SETTINGS = RunSettings(
    "nightly", "abc", "strict", "cpu", "auto", data={"reviews": "d1"},
    recipes={"base-wanda": "wanda-50"}, seeds={"base-wanda": [7]}, protocols=["perplexity  x"],
)  # fmt: skip


def test_it_has_everything_that_produced_the_run():
    origin = {"baseline": "b1", "candidate": "c1"}
    entries = [
        entry("base-wanda", origin=origin, form="plain"),
        entry("base-wanda", "speedup", origin=origin, kernel="dense"),
        entry("other"),
    ]
    manifest = manifest_of(entries, SETTINGS)
    assert manifest["baselines"] == {"base": {"digest": "b1"}}
    assert manifest["candidates"] == {
        "base-wanda": {"baseline": "base", "digest": "c1", "form": "plain", "recipe": "wanda-50",
                       "kernel": "dense", "seeds": [7]},
        "other": {"baseline": "base"},
    }  # fmt: skip
    assert manifest["profile"] == {"name": "nightly", "digest": "abc"}
    assert manifest["data"] == {"reviews": "d1"}
    assert manifest["protocols"] == ["perplexity  x"]
    assert manifest["versions"]["python"] == platform.python_version()
    assert manifest["versions"]["torch"] == versions()["torch"] != ""
    assert json.loads(json.dumps(manifest)) == manifest


def test_it_has_nothing_private():
    text = json.dumps(manifest_of([entry("base-wanda")], SETTINGS))
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    assert platform.node() not in text
    assert f'"{getpass.getuser()}"' not in text
