"""What a number depends on beside the model, the data and the protocol: packages and our source."""

from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

from evals.checkpoint import Checkpoint
from evals.formats import format_of
from evals.measurement import key_of

PACKAGES = ("torch", "transformers", "tokenizers", "compressed-tensors")
"""Whatever is scored, these take part."""


def packages_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Versions of what unpacks or merges its weights; empty for plain ones."""
    forms = [checkpoint.form, *([checkpoint.base.form] if checkpoint.base else [])]
    names = {name.partition(".")[0] for form in forms for name in format_of(form).packages}
    return {
        distribution: version_of(distribution)
        for name in sorted(names)
        for distribution in sorted(set(_distributions().get(name, ())))
    }


_distributions = cache(packages_distributions)
version_of = cache(version)  # reading it from disk takes a millisecond each time


@cache
def code_version() -> str:
    """Hash of the source that measurements depend on, so that none outlives its code."""
    room = Path(__file__).parent
    files = [
        *sorted((room / "scoring").glob("*.py")),
        *(room / name for name in ("metrics/divergence.py", "tables.py", "formats.py")),
    ]
    return key_of({file.name: file.read_text() for file in files})
