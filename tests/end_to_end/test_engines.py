"""Gates on speed, decoding and memory, and forms without a kernel."""

import json

import pytest

PROFILE = """
[data.passages]
source = "passages"
count = 2

[[suite]]
kind = "causal"
baselines = ["llama-tiny"]
recipes = ["rtn-int8,activations=true", "log-int4", "magnitude-30"]
text = "passages"
quality_engine = "eager"

[suite.gates]
memory = 0.95
speedup = 0.3
decode_speedup = 0.11
"""
NO_KERNEL = "torch has no kernel for int4 weights on a grid of powers of two"


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "engines.toml"
    path.write_text(PROFILE)
    return path


def rows_of(report) -> dict:
    rows = [json.loads(line) for line in (report / "report.jsonl").read_text().splitlines()]
    return {(r["row"], r["verdict"]["metric"]): r for r in rows if "verdict" in r}


def test_efficiency_is_judged_on_kernels_only(gates, profile, tmp_path):
    chosen = ("--profile", profile, "-m", "efficiency", "-k", "not log-int4")
    done = gates(*chosen, "--report", tmp_path / "report", store=tmp_path / "store")
    assert done.returncode == 0, done.stdout
    assert "run on      int8 weights and int8 inputs: onednn::qlinear_pointwise: " in done.stdout
    rows = rows_of(tmp_path / "report")
    assert len(rows) == 2 * 3
    for (recipe, metric), row in rows.items():
        is_int8 = recipe.startswith("rtn-int8")
        assert row["kernel"].startswith("int8 weights and int8 inputs" if is_int8 else "dense")
        assert row["verdict"]["outcome"] in ("passed", "inconclusive")
        if metric == "memory":
            assert (row["verdict"]["value"] > 1.1) == is_int8
            continue
        facts, names = row["facts"], {"speedup": ("single",), "decode_speedup": ("batch", "first")}
        for name in ("seconds", *names[metric]):
            times = [facts[f"{name}_candidate_p{percent}"] for percent in (50, 90, 99)]
            assert 0 < times[0] <= times[1] <= times[2]
        assert len(row["evidence"]) == 2 * (1 + len(names[metric]))


def test_a_form_without_a_kernel_is_not_judged(gates, profile, tmp_path):
    """Its quality cannot be scored on an engine either."""
    done = gates("--profile", profile, "-k", "log-int4", store=tmp_path / "store")
    assert done.returncode == 1
    assert f"its quality cannot be scored on the engine eager: {NO_KERNEL}" in done.stdout
    unpacked = tmp_path / "unpacked.toml"
    unpacked.write_text(PROFILE.replace('quality_engine = "eager"\n', ""))
    chosen = ("--profile", unpacked, "-m", "efficiency", "-k", "log-int4")
    done = gates(*chosen, store=tmp_path / "store")
    assert done.returncode == 0, done.stdout
    assert f"decode of log-int4; memory of log-int4; speed of log-int4: {NO_KERNEL}" in done.stdout
    strict = gates(*chosen, "--strict", store=tmp_path / "store")
    assert strict.returncode == 1
    assert f"speed not judged: {NO_KERNEL}" in strict.stdout
