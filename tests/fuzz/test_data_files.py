"""Data sets in every form."""

import json
from pathlib import Path
from random import Random

import pyarrow
import pyarrow.parquet
import pytest

from compression_gates.fixtures.suite.data_files import Files, with_files
from compression_gates.fixtures.suite.datasets import data_set
from compression_gates.fixtures.suite.named_checkpoints import open_baseline
from compression_gates.fixtures.suite.profile import read_profile
from tests.fuzz.mutations import mutated_bytes, mutated_json_file, mutated_json_lines

LABELLED = [{"text": f"The soup was good {i}.", "label": i % 2} for i in range(6)]
ANSWERED = [
    {"question": f"What is {i}?", "context": f"It is {i}.", "answers": {"text": [str(i)]}}
    for i in range(6)
]
PROMPTS = [{"prompt": f"Say {i}", "response": f"{i} is said"} for i in range(6)]
SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "It is 3.", "qas": [
    {"question": "What is it?", "answers": [{"text": "3", "answer_start": 6}]}]}]}]}  # fmt: skip


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv(rows) -> bytes:
    return "\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]).encode()


def parquet(rows) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


CASES = {
    "labelled.jsonl": ("bert-tiny", "labelled", lines(LABELLED), mutated_json_lines),
    "labelled.json": ("bert-tiny", "data", json.dumps(LABELLED).encode(), mutated_json_file),
    "labelled.csv": ("bert-tiny", "labelled", csv(LABELLED), mutated_bytes),
    "labelled.parquet": ("bert-tiny", "labelled", parquet(LABELLED), mutated_bytes),
    "questions.jsonl": ("llama-tiny", "questions", lines(ANSWERED), mutated_json_lines),
    "questions.parquet": ("llama-tiny", "questions", parquet(ANSWERED), mutated_bytes),
    "squad.json": ("llama-tiny", "questions", json.dumps(SQUAD).encode(), mutated_json_file),
    "prompts.jsonl": ("llama-tiny", "prompts", lines(PROMPTS), mutated_json_lines),
    "prompts.tsv": ("llama-tiny", "data", csv(PROMPTS).replace(b",", b"\t"), mutated_bytes),
    "text.txt": ("llama-tiny", "text", b"The soup was good.\n\xf0\x9f\x99\x82\n", mutated_bytes),
}


class DataFiles:
    """Reads other files than the one of a case."""

    def __init__(self, name: str, folder: Path):
        model, self.option, self.content, self.mutated = CASES[name]
        self.profile, self.baseline = read_profile("checkpoints"), open_baseline(model)
        suites = self.profile.suites
        self.suite = next(suite for suite in suites if suite.kind == self.baseline.kind)
        self.path = folder / name
        self.read(self.content)

    def __call__(self, rng: Random) -> None:
        self.read(self.mutated(rng, self.content))

    def read(self, content: bytes) -> None:
        self.path.write_bytes(content)
        path = str(self.path) if self.option == "text" else [str(self.path)]
        given = Files(**{self.option: path})
        profile, suite = with_files(self.profile, self.suite, self.baseline, given, keep=False)
        for name in set(suite.roles.values()):
            data = data_set(name, profile.data[name], self.baseline.kind)
            assert data.items
            assert data.digest
            assert all(isinstance(document, int) for document in data.documents)


@pytest.mark.parametrize("name", CASES)
def test_data_files(each, tmp_path, name):
    each(25, DataFiles, name, tmp_path, share=0)
