"""Names and texts that attack the places they are shown in, through the whole command."""

import json
import re
import shutil
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import pytest

from compression_gates.fixtures.world.shipped import MODELS
from tests.processes import run_forking_workers

HOSTILE = "x\x1b[31m\u202e\n::error::gone|<img src=x>`http://x.org @octocat\x00##[group]"
COMMAND = re.compile(r"^\s*::|##\[", re.MULTILINE)
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def check_harmless(text: str) -> None:
    assert not [c for c in text if c not in "\n\t" and unicodedata.category(c) in HIDDEN]
    assert not COMMAND.search(text)


def check_all(done, folder: Path) -> None:
    """The terminal, both reports and the JUnit file of a run."""
    check_harmless(done.stdout)
    check_harmless(done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    markdown = (folder / "report" / "report.md").read_text(encoding="utf-8")
    check_harmless(markdown)
    outside = re.sub(r"(?ms)^(`{3,})text$.*?^\1$", "", markdown)
    assert "<img" not in outside
    assert "http://" not in outside
    assert "@octocat" not in outside
    for line in (folder / "report" / "report.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.dumps(json.loads(line), ensure_ascii=False).encode()
    ElementTree.parse(folder / "junit.xml")


def write_log(folder: Path, right: float) -> Path:
    """A log of lm-eval whose names and texts are hostile."""
    task, date = "t\x1b[31m::error::|\n::x::`", "2026-01-01T00-00-00"
    metric = "\ud800\n::error::metric|"
    lines = [
        {
            "doc_id": index, "doc": {"q": str(index)}, "target": HOSTILE, "filter": name,
            "arguments": [[f"{HOSTILE}\ud800 {index}", {}]], "resps": [["a"]],
            "filtered_resps": [HOSTILE + "\udfff"], "exact_match": right, metric: 1.0,
            "metrics": ["exact_match", metric],
        }
        for name in (HOSTILE, "none\ud800")
        for index in range(40)
    ]  # fmt: skip
    folder.mkdir()
    file = folder / f"results_{date}.json"
    file.write_text(json.dumps({"configs": {task: {}}, "model_name": f"m/{HOSTILE}\ud800"}))
    (folder / f"samples_{task}_{date}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return file


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_a_log(tmp_path, gates, options):
    one, two = write_log(tmp_path / "one", 1.0), write_log(tmp_path / "two", 0.0)
    done = gates("--baseline", one, "--candidate", two, "--report", tmp_path / "report",
                 f"--junitxml={tmp_path / 'junit.xml'}", "-v", *options,
                 run=run_forking_workers)  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed" in done.stdout
    check_all(done, tmp_path)


def hostile_classifier(folder: Path, sign: int) -> Path:
    """A classifier whose labels and folder have hostile names, and whose answers are turned."""
    from safetensors.torch import load_file, save_file

    path = folder / f"{'b' if sign > 0 else 'c'}\x1b[31m\n::error::|"
    shutil.copytree(MODELS / "bert-tiny", path)
    described = json.loads((path / "config.json").read_text())
    described["id2label"] = {"0": f"a{HOSTILE}", "1": f"b{HOSTILE}"}
    described["label2id"] = {f"a{HOSTILE}": 0, f"b{HOSTILE}": 1}
    (path / "config.json").write_text(json.dumps(described))
    tensors = load_file(MODELS / "bert-tiny" / "model.safetensors")
    turned = {n: t * sign if n.startswith("classifier") else t for n, t in tensors.items()}
    save_file(turned, path / "model.safetensors", {"format": "pt"})
    return path


def test_a_folder_labels_and_texts(tmp_path, gates):
    one, two = hostile_classifier(tmp_path, 1), hostile_classifier(tmp_path, -1)
    rows = [{"text": f"The soup was good. {HOSTILE} {i}", "label": i % 2} for i in range(40)]
    data = tmp_path / "d\x1b[31m|\n::error::.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    junit = f"--junitxml={tmp_path / 'junit.xml'}"
    done = gates("--baseline", one, "--candidate", two, "--labelled", data, "-m", "quality",
                 "--report", tmp_path / "report", junit)  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "failed" in done.stdout
    check_all(done, tmp_path)


def test_an_error_names_a_hostile_folder(tmp_path, gates):
    path = tmp_path / "x\x1b[31m\n::error::gone"
    path.mkdir()
    (tmp_path / "text").write_text("The soup was good.")
    done = gates("--baseline", "llama-tiny", "--candidate", path, "--text", tmp_path / "text",
                 "--report", tmp_path / "report")  # fmt: skip
    assert done.returncode == 4
    check_harmless(done.stderr + done.stdout)
    check_harmless((tmp_path / "report" / "report.md").read_text(encoding="utf-8"))
