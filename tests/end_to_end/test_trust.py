"""Plans, policies, proposals and families through the real command line."""

import shutil
import tomllib

import pytest

from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end.conftest import PROFILE
from tests.processes import run_forking_workers


def test_a_plan_shows_what_gates_can_tell_and_makes_no_candidate(gates, profile, tmp_path):
    done = gates("--profile", profile, "--plan", store=tmp_path / "store")
    assert done.returncode == 0, done.stdout
    for part in ("resolves", "bert-tiny     accuracy", "-10.00 pt", "assumed"):
        assert part in done.stdout
    note = "plan        scores baselines that are not in the store; runs no candidate"
    assert done.stdout.index(note) < done.stdout.index("resolves")
    assert not list((tmp_path / "store" / "candidates").iterdir())


def test_a_gate_with_too_few_items_is_called_out_before_anything_is_run(gates, profile, tmp_path):
    profile.write_text(PROFILE.replace("accuracy_drop = 0.1", "accuracy_drop = 0.02"))
    done = gates("--profile", profile, "-k", "accuracy_drop and bert-tiny and rtn-int8",
                 store=tmp_path / "store")  # fmt: skip
    assert done.returncode == 0, done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("too few items"))
    assert "bert-tiny accuracy: the limit is -2.00 pt, but 200 items can only resolve -" in line
    assert done.stdout.index("too few items") < done.stdout.index("test_accuracy_drop.py")


def test_several_workers_show_once_which_gates_have_too_few_items(gates, profile, tmp_path):
    text = PROFILE.replace("accuracy_drop = 0.1", "accuracy_drop = 0.01")
    text = text.replace(
        "js_divergence = 0.05", 'js_divergence = { limit = 1e-4, tier = "advisory" }'
    )
    profile.write_text(text.replace('gates = ["js_divergence", ', "gates = ["))
    words = ["--profile", profile, "-k", "bert-tiny-magnitude-30"]
    done = gates(*words, "-n", "2", store=tmp_path / "store", run=run_forking_workers)
    (line,) = [line for line in done.stdout.splitlines() if "too few items" in line]
    assert line.startswith(
        "too few items   bert-tiny accuracy: the limit is -1.00 pt, but 200 items"
    )
    assert done.stdout.index(line) < done.stdout.index("\ndecision ")
    alone = gates(*words, store=tmp_path / "store")
    assert line in alone.stdout.splitlines()
    assert alone.stdout.count("too few items") == 1


def test_smoke_fails_only_what_is_proven(gates, profile):
    # Between what the two suites of numbers say: 0.3 % of 200 answers is less than one of them.
    profile.write_text(PROFILE.replace("flips = 0.15", "flips = 0.003"))
    chosen = ("-k", "flips and roberta-tiny-magnitude-30")
    default = gates("--profile", profile, *chosen)
    smoke = gates("--profile", profile, *chosen, "--smoke")
    strict = gates("--profile", profile, *chosen, "--strict")
    assert (default.returncode, smoke.returncode, strict.returncode) == (1, 0, 1), default.stdout
    assert (
        "policy      smoke: a case fails only if its whole interval is beyond the limit"
        in smoke.stdout
    )
    assert (
        "0.30% of the predictions flip; the strict policy requires it of the whole" in strict.stdout
    )


def test_policies_that_contradict_each_other_are_a_wrong_use(gates, profile):
    done = gates("--profile", profile, "--smoke", "--strict")
    assert done.returncode == 4
    assert "--strict and --smoke exclude each other; give one" in done.stdout + done.stderr


def test_a_run_with_a_broken_candidate_raises_an_alarm(gates, profile):
    calm = gates("--profile", profile, "-k", "bert-tiny-rtn-int8 or bert-tiny-magnitude-30")
    assert (
        "family      no alarm over 10 gates (Holm: false alarms in at most 1% of runs)"
        in calm.stdout
    )
    profile.write_text(PROFILE.split("[[suite.known_failures]]")[0])
    done = gates("--profile", profile, "--family", "bh", "-k", "bert-tiny")
    assert "ALARM (Benjamini-Hochberg: at most 1% of them false)" in done.stdout
    assert "no alarm" not in done.stdout
    assert "bert-tiny-magnitude-90" in done.stdout.split("ALARM")[1].splitlines()[0]


def test_proposed_limits_are_a_profile_that_passes(gates, profile, tmp_path):
    target = tmp_path / "proposed.toml"
    done = gates("--profile", profile, "--propose-limits", target, "-k", "bert-tiny")
    assert done.returncode == 0, done.stdout
    assert f"limits in {target}, 3 kept as they were; " in done.stdout
    assert ": it is known to fail" in done.stdout
    suite = tomllib.loads(target.read_text())["suite"][0]
    assert suite["gates_for"]["rtn-int8"]["flips"] < suite["gates"]["flips"]
    again = gates("--profile", target, "-k", "bert-tiny")
    assert again.returncode == 0, again.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--propose-limits", "no/x.toml"], "--propose-limits no/x.toml: No such file"),
        (["--propose-limits", "x.toml", "-n", "2"], "cannot run in several workers"),
        (["--propose-limits", "x.toml", "--plan"], "--propose-limits has to run candidates"),
        (["--propose-limits", "x.toml", "--baseline", "bert-tiny"], "a profile's own recipes"),
        (["--propose-limits", "x.toml", "--propose-rate", "1"], "--propose-rate 1: give the share"),
        (["--propose-rate", "0.1"], "--propose-rate needs --propose-limits FILE"),
        (["--plan", "-n", "2"], "--plan cannot run in several workers; leave out -n"),
        (["--family", "bonferroni"], "invalid choice: 'bonferroni'"),
    ],
)
def test_a_wrong_use_is_one_line(gates, profile, words, complaint):
    done = gates("--profile", profile, *words)
    assert done.returncode == 4
    assert complaint in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_plan_of_a_baseline_that_does_not_load_does_not_start(gates, profile, tmp_path):
    shutil.copytree(MODELS / "roberta-tiny", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"short")
    profile.write_text(
        PROFILE.split("[[suite.known_failures]]")[0].replace("roberta-tiny", f"{tmp_path}/broken")
    )
    done = gates("--profile", profile, "--plan")
    assert done.returncode == 4
    assert "broken/model.safetensors does not load" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
