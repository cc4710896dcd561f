"""What GitHub Actions shows of a run: the summary of a job, and annotations.

See "Workflow commands for GitHub Actions" in GitHub's documentation.
"""

from collections.abc import Sequence

from compression_gates.evals.foreign_text import in_markdown, on_one_line

MAX_SUMMARY_BYTES = 1 << 20
"""Size of the summary of a step; GitHub drops a larger one completely."""
MAX_ANNOTATIONS = 10
"""Number of errors of a step that GitHub shows; it drops further ones."""
Failure = tuple[str, str]
"""The name of what failed, and the reason in one line."""
RUN_NAME = "gates"
"""Name of a failure of the run as a whole."""


def step_summary(
    sentence: str,
    failures: Sequence[Failure],
    report: str,
    advice: str = "keep it as files of the job",
) -> str:
    """Return the summary of a step as Markdown: the result and the failures, then the complete
    report, folded.

    If the report makes the summary too large for GitHub, a note replaces it.

    Args:
        sentence: the result of the run.
        failures: of the cases.
        report: the complete report as Markdown.
        advice: how to read a report that is too large.
    """
    parts = [f"## Gates: {in_markdown(sentence)}"]
    if failures:
        parts.append("\n".join(f"- **{in_markdown(n)}**: {in_markdown(r)}" for n, r in failures))
    folded = ["<details><summary>Complete report</summary>", report, "</details>"]
    text = "\n\n".join([*parts, *folded]) + "\n"
    if len(text.encode()) <= MAX_SUMMARY_BYTES:
        return text
    note = f"The complete report is too large for this summary; {advice}."
    size = MAX_SUMMARY_BYTES - len(f"\n\n{note}\n")
    shown = "\n\n".join(parts).encode()
    if len(shown) > size:  # whole lines, so that no escape is cut in two
        shown = shown[: max(shown.rfind(b"\n", 0, size), 0)]
    return f"{shown.decode()}\n\n{note}\n"


def annotations(failures: Sequence[Failure]) -> list[str]:
    """Return the workflow commands that annotate a run with its failures.

    The last of :data:`MAX_ANNOTATIONS` says how many more there are.
    """
    shown = list(failures)
    if len(shown) > MAX_ANNOTATIONS:
        more = len(shown) - MAX_ANNOTATIONS + 1
        shown = [*shown[: MAX_ANNOTATIONS - 1], (RUN_NAME, f"{more} more failures are in the log")]
    return [f"::error title={_property(name)}::{_data(reason)}" for name, reason in shown]


def warning(reason: str) -> str:
    """Return the workflow command that annotates a run with a warning."""
    return f"::warning title={RUN_NAME}::{_data(reason)}"


def _data(text: str) -> str:
    return on_one_line(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
