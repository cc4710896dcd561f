"""Pairs of copies of shipped checkpoints, and pairs of bare configurations."""

import json
import shutil
from functools import cache
from pathlib import Path

import pytest

from compression_gates.evals.checkpoints import configuration
from compression_gates.evals.checkpoints.checkpoint import CAUSAL, Checkpoint, open_checkpoint
from compression_gates.evals.checkpoints.compare import Sides, compare
from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.data.items import DataSet, Text
from compression_gates.fixtures.world import tokenizers as vocabulary
from tests.evals.checkpoints.gguf_files import BASE, SHORT

DATA = DataSet("texts", (Text("Rufus lives in Merrin.", 0), Text("Lena owns a steel drum.", 1)))
"""Texts of at most seven tokens."""


class Copies:
    """A baseline and a candidate that are initially identical."""

    def __init__(self, base: Path, candidate: Path):
        self.base, self.candidate = base, candidate

    def swapped(self):
        """Return the copies with their roles exchanged, to change the baseline."""
        return Copies(self.candidate, self.base)

    def change(self, name, change, both=False):
        """Apply ``change`` to a JSON file of the candidate, or of both."""
        for place in (self.base, self.candidate) if both else (self.candidate,):
            described = json.loads((place / name).read_text())
            change(described)
            (place / name).write_text(json.dumps(described))

    def findings(self, *data, compare=compare):
        """Return the severity and the text of the findings by kind, of all comparisons or one."""
        sides = Sides(*map(open_checkpoint, (self.base, self.candidate)), data or [DATA])
        findings = compare(sides).findings
        assert all("\n" not in finding.text for finding in findings)
        return {finding.kind: (finding.severity, finding.text) for finding in findings}


@pytest.fixture
def copies(tmp_path):
    """``copies("llama-tiny")``: two copies of a shipped model."""

    def make(model: str = "llama-tiny") -> Copies:
        places = tmp_path / model / "base", tmp_path / model / "candidate"
        for place in places:
            shutil.copytree(Path("fixtures/models", model), place, copy_function=shutil.copyfile)
        return Copies(*places)

    return make


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary.causal(64).save_pretrained(folder)
    return folder


@pytest.fixture
def sides_of(tokenizer_folder, tmp_path):
    """``sides_of(one, two, kind)``: checkpoints with these files, given as names and contents."""

    def make(one: dict, two: dict, kind: str = CAUSAL, data: DataSet = DATA) -> Sides:
        sides = []
        for label, files in (("one", one), ("two", two)):
            path = tmp_path / label
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            for name, held in files.items():
                text = held if isinstance(held, str) else json.dumps(held)
                (path / name).write_text(text)
            sides.append(Checkpoint(path, kind, 0, label, tokenizer=tokenizer_folder))
        return Sides(*sides, [data])

    return make


@pytest.fixture
def compared(sides_of):
    """``compared(one, two)``: kind and text of each difference between two ``config.json``."""

    def make(one, two, kind=CAUSAL, **more):
        sides = sides_of({"config.json": one}, {"config.json": two}, kind, **more)
        findings = configuration.compare(sides).findings
        assert all(f.text.isprintable() and len(f.text) < 1000 for f in findings)
        return [(f.kind, f.text) for f in findings]

    return make


@cache
def tensor_name_map(*arguments):
    from gguf.tensor_mapping import get_tensor_name_map

    return get_tensor_name_map(*arguments)


@pytest.fixture
def differences(tmp_path, monkeypatch):
    """``differences(header, base, ...)``: findings for a file with a changed header, by severity
    and without the quantization types."""
    from compression_gates.evals.checkpoints import gguf_header
    from tests.end_to_end import foreign

    gguf = pytest.importorskip("gguf")
    # transformers makes the map of names anew for each module of a model.
    monkeypatch.setattr(gguf, "get_tensor_name_map", tensor_name_map)

    def find(header=lambda writer: None, base=BASE, tokenizer=True, data=SHORT, kind="Q8_0"):
        shutil.rmtree(tmp_path / "file", ignore_errors=True)
        file = foreign.gguf(kind, header, tokenizer)(base, tmp_path / "file")
        baseline = open_checkpoint(base)
        candidate = open_checkpoint(file).with_tokenizer_of(baseline)
        comparison = gguf_header.compare(Sides(baseline, candidate, [data]))
        assert all("\n" not in finding.text for finding in comparison.findings)
        return {
            severity: [
                text for text in comparison.of(severity) if not text.startswith("quantization")
            ]
            for severity in Severity
        }

    return find


@pytest.fixture
def base_with(tmp_path):
    """``base_with(changes)``: the shipped model with changed settings."""

    def make(generation=None, **changes):
        shutil.copytree(BASE, tmp_path / "base")
        for name, new in (("config.json", changes), ("generation_config.json", generation or {})):
            file = tmp_path / "base" / name
            file.chmod(0o644)
            file.write_text(json.dumps(json.loads(file.read_text()) | new))
        return tmp_path / "base"

    return make
