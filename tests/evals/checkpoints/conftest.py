"""Two configurations side by side, without any weights."""

import json
import shutil

import pytest

from evals.checkpoint import CAUSAL, Checkpoint
from evals.checkpoints.compare import Sides
from evals.data import DataSet, Text
from fixtures import vocabulary

TEXTS = DataSet("texts", (Text("Rufus lives in Merrin.", 0), Text("Lena owns a steel drum.", 1)))
"""Texts of seven tokens at most."""


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary.causal(64).save_pretrained(folder)
    return folder


@pytest.fixture
def sides_of(tokenizer_folder, tmp_path):
    """``sides_of(one, two, kind)``: checkpoints with these files, by name and what they hold."""

    def make(one: dict, two: dict, kind: str = CAUSAL, data: DataSet = TEXTS) -> Sides:
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
