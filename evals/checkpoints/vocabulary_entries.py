"""Comparison of two vocabularies: the entries of the tokenizers and the rows of the models."""

from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.encoding import TokenizerPair, both_sides
from compression_gates.evals.checkpoints.files import json_object
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.stress import is_reserved
from compression_gates.evals.errors import listed
from compression_gates.evals.foreign_text import snippet

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides


def compare(sides: "Sides") -> CheckpointComparison:
    """Compare the entries of two vocabularies and the number of rows that the models predict."""
    rows = [_rows(side) for side in (sides.baseline, sides.candidate)]
    findings = []
    if None not in rows and rows[0] != rows[1]:
        text = (
            f"the number of vocabulary rows is {both_sides(*rows)}: divergences are computed over "
            f"the {min(rows)} shared rows"
        )
        findings.append(Finding("size of the vocabulary", text))
    if not sides.share_tokenizer:
        findings += _entries(sides.tokenizers)
    return CheckpointComparison(tuple(findings), ("vocabulary",))


def _rows(checkpoint: Checkpoint) -> int | None:
    """Return ``vocab_size`` of a configuration; None if there is none."""
    if checkpoint.file:
        return None
    described = json_object((checkpoint.base or checkpoint).path / "config.json")
    inner = described.get("text_config")
    for part in (described, inner if isinstance(inner, dict) else {}):
        if isinstance(part.get("vocab_size"), int):
            return part["vocab_size"]
    return None


def _entries(pair: TokenizerPair) -> list[Finding]:
    """Compare the ids of all entries that are no added tokens."""
    added = {token for side in pair for token in side.added_tokens_encoder}
    before, after = (
        {entry: index for entry, index in side.get_vocab().items() if entry not in added}
        for side in pair
    )
    changed = [entry for entry, index in before.items() if after.get(entry) != index]
    lost = {entry for entry in changed if is_reserved(entry) and entry not in after}
    unused = [snippet(entry) for entry in changed if entry in lost]
    used = [
        f"{snippet(entry)} is {both_sides(before[entry], after.get(entry, 'none'))}"
        for entry in changed
        if entry not in lost
    ]
    new = [snippet(entry) for entry in after if entry not in before]
    listings = (
        ("vocabulary", "entries of the vocabulary differ: ", used),
        ("unused vocabulary", "the candidate lacks the reserved entries ", unused),
        ("more vocabulary", "only the candidate has the entries ", new),
    )
    return [Finding(kind, start + listed(texts, "; ")) for kind, start, texts in listings if texts]
