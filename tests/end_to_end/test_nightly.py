"""The comparison with an earlier report through the real command line."""

PROFILE = """
[data.reviews]
source = "reviews"
count = 200

[[suite]]
kind = "classifier"
baselines = ["bert-tiny"]
recipes = [{{ method = "magnitude", sparsity = {sparsity}, name = "pruned" }}]
labels = "reviews"
gates = {{ js_divergence = 0.6, accuracy_drop = 0.45, flips = 0.49 }}
"""


def test_a_night_after_another(gates, tmp_path):
    """One folder for all nights: two by two workers, and one that is broken although every gate
    passes."""
    profile, night = tmp_path / "nightly.toml", tmp_path / "night"
    words = ("--profile", profile, "--report", night, "--since", night)
    profile.write_text(PROFILE.format(sparsity=0.2))
    first = gates(*words, "-n", "2")
    assert first.returncode == 0, first.stdout
    assert f"since       no earlier report in {night}" in first.stdout
    proven = gates(*words[:2], "--since", tmp_path / "nowhere", "--strict", "-k", "flips")
    assert proven.returncode == 1
    assert "FAILED: --strict requires" in proven.stdout
    quiet = gates(*words, "-n", "2")
    assert quiet.returncode == 0, quiet.stdout
    said = "nothing got worse beyond noise in 4 gates, 3 compared item by item"
    assert said in quiet.stdout
    profile.write_text(PROFILE.format(sparsity=0.9))
    broken = gates(*words)
    assert broken.returncode == 1, broken.stdout
    assert "since       WORSE (Holm" in broken.stdout
    assert "4 passed" in broken.stdout
    (night / "report.jsonl").write_text("cut")
    damaged = gates(*words)
    assert damaged.returncode == 4
    assert "report.jsonl: line 1 is not a verdict" in damaged.stderr
