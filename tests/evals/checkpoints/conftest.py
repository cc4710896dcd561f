"""Shipped checkpoints in two copies, of which one is changed."""

import json
import shutil
from pathlib import Path

import pytest

from evals.checkpoint import open_checkpoint
from evals.checkpoints.compare import Sides, compare
from evals.data import DataSet, Text

DATA = DataSet("texts", (Text("Rufus lives in Merrin.", 0), Text("Lena owns a steel drum.", 1)))


class Copies:
    """A baseline and a candidate that are equal at first."""

    def __init__(self, base: Path, candidate: Path):
        self.base, self.candidate = base, candidate

    def swapped(self):
        """The same copies with their parts exchanged, to change the baseline."""
        return Copies(self.candidate, self.base)

    def change(self, name, change, both=False):
        """Applies ``change`` to a JSON file of the candidate, or of both."""
        for place in (self.base, self.candidate) if both else (self.candidate,):
            described = json.loads((place / name).read_text())
            change(described)
            (place / name).write_text(json.dumps(described))

    def findings(self, *data):
        """What is found, by kind: severity and text."""
        sides = Sides(*map(open_checkpoint, (self.base, self.candidate)), data or [DATA])
        found = compare(sides).findings
        assert all("\n" not in one.text for one in found)
        return {one.kind: (one.severity, one.text) for one in found}


@pytest.fixture
def copies(tmp_path):
    """``copies("llama-tiny")``: two copies of a shipped model."""

    def make(model: str = "llama-tiny") -> Copies:
        places = tmp_path / model / "base", tmp_path / model / "candidate"
        for place in places:
            shutil.copytree(Path("fixtures/models", model), place, copy_function=shutil.copyfile)
        return Copies(*places)

    return make
