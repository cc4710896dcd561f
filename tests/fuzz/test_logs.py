"""Sample logs of lm-evaluation-harness."""

import json
import math
from pathlib import Path
from random import Random

from compression_gates.evals.gates.gate import DEFAULT, NOT_JUDGED, verdict_of
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.fixtures.suite.lab import Lab
from compression_gates.fixtures.suite.matrix import with_logs
from compression_gates.fixtures.suite.profile import read_profile
from tests.fuzz.mutations import mutated_json_file, mutated_json_lines

DATE = "2026-01-01T00-00-00"
CONFIGS = {"choice": {"output_type": "multiple_choice"}, "answer": {}, "pages": {}}
METRIC = {"choice": {"acc": 1.0, "acc_norm": 0.0}, "answer": {"exact_match": 1.0, "f1": 0.5},
          "pages": {"word_perplexity": [-20.5, 7]}}  # fmt: skip
COUNT = 30


def files() -> dict[str, bytes]:
    found = {
        f"results_{DATE}.json": json.dumps(
            {
                "configs": CONFIGS, "model_name": "maker/model", "lm_eval_version": "0.4.10",
                "versions": dict.fromkeys(CONFIGS, 1.0), "n-shot": dict.fromkeys(CONFIGS, 0),
                "config": {"model_args": "pretrained=x,dtype=float32"}, "max_length": 512,
            }
        ).encode()
    }  # fmt: skip
    for task in CONFIGS:
        rows = [
            {
                "doc_id": i, "doc": {"text": f"page {i}"}, "target": "a", "filter": "none",
                "arguments": [[f"Say {i}", {}]], "resps": [[["-1.5", "False"]], [["-2.0", "True"]]],
                "filtered_resps": [["-1.5", "False"], ["-2.0", "True"]],
                "metrics": list(METRIC[task]), "doc_hash": f"d{i}", "prompt_hash": f"p{i}",
                "target_hash": f"t{i}", **METRIC[task],
            }
            for i in range(COUNT)
        ]  # fmt: skip
        found[f"samples_{task}_{DATE}.jsonl"] = "".join(
            json.dumps(row) + "\n" for row in rows
        ).encode()
    return found


class Logs:
    """Judges two logs of which one file is another."""

    def __init__(self, folder: Path):
        self.folder, self.whole = folder, files()
        self.profile = read_profile("checkpoints")
        for side in ("one", "two"):
            (folder / side).mkdir()
            for name, content in self.whole.items():
                (folder / side / name).write_bytes(content)
        self.judge()

    def __call__(self, rng: Random) -> None:
        name = rng.choice(list(self.whole))
        mutated = mutated_json_file if name.startswith("results") else mutated_json_lines
        for side in rng.choice((("two",), ("one",), ("one", "two"))):
            (self.folder / side / name).write_bytes(mutated(rng, self.whole[name]))
        try:
            self.judge()
        finally:
            for side in ("one", "two"):
                (self.folder / side / name).write_bytes(self.whole[name])

    def judge(self) -> None:
        sides = [str(self.folder / side / f"results_{DATE}.json") for side in ("one", "two")]
        profile, found = with_logs(self.profile, sides[0], sides[1:])
        for candidate in found:
            pair = Lab(profile, None).pair(candidate)
            assert candidate.name.isprintable()
            for metric in METRICS:
                gate = candidate.gate(metric)
                if gate is not None:
                    reading = METRICS[metric].read(pair, gate.weights)
                    verdict = verdict_of(candidate.name, gate, reading)
                    judged = verdict.outcome != NOT_JUDGED
                    assert not (judged and math.isnan(verdict.value) and verdict.holds(DEFAULT))


def test_logs(each, tmp_path):
    each(60, Logs, tmp_path, share=0.05)
