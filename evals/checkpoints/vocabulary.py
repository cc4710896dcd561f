"""Vocabularies of two checkpoints: the entries of their tokenizers, and how many rows they
predict over."""

from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.encoding import Pair
from compression_gates.evals.checkpoints.files import json_object
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.stress import is_reserved
from compression_gates.evals.errors import listed
from compression_gates.evals.foreign_text import snippet

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides


def compare(sides: "Sides") -> CheckpointComparison:
    """Holds every entry of two vocabularies side by side, and the number of their rows."""
    rows = [_rows(side) for side in (sides.baseline, sides.candidate)]
    findings = []
    if None not in rows and rows[0] != rows[1]:
        text = (
            f"the candidate has {rows[1]} rows of vocabulary, the baseline {rows[0]}: "
            f"divergences are over the {min(rows)} that they share"
        )
        findings.append(Finding("size of the vocabulary", text))
    if not sides.share_tokenizer:
        findings += _entries(sides.tokenizers)
    return CheckpointComparison(tuple(findings), ("vocabulary",))


def _rows(checkpoint: Checkpoint) -> int | None:
    """Rows that a configuration gives the vocabulary; None where there is no configuration."""
    if checkpoint.file:
        return None
    described = json_object((checkpoint.base or checkpoint).path / "config.json")
    inner = described.get("text_config")
    for part in (described, inner if isinstance(inner, dict) else {}):
        if isinstance(part.get("vocab_size"), int):
            return part["vocab_size"]
    return None


def _entries(pair: Pair) -> list[Finding]:
    """Entries without a flag: of each baseline's, whether the candidate has it under its id."""
    added = {token for side in pair for token in side.added_tokens_encoder}
    before, after = (
        {entry: index for entry, index in side.get_vocab().items() if entry not in added}
        for side in pair
    )
    changed = [entry for entry, index in before.items() if after.get(entry) != index]
    unused = [entry for entry in changed if is_reserved(entry) and entry not in after]
    used = [entry for entry in changed if entry not in unused]
    new = [entry for entry in after if entry not in before]
    shown = [
        f"{snippet(entry)} is {before[entry]} for the baseline and "
        f"{after.get(entry, 'none')} for the candidate"
        for entry in used
    ]
    found = {
        "vocabulary": ("entries of the vocabulary differ: ", listed(shown, "; ")),
        "unused vocabulary": (
            "the candidate lacks the reserved entries ", listed([snippet(e) for e in unused]),
        ),
        "more vocabulary": (
            "only the candidate has the entries ", listed([snippet(entry) for entry in new]),
        ),
    }  # fmt: skip
    return [Finding(kind, start + names) for kind, (start, names) in found.items() if names]
