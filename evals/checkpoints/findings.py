"""What two checkpoints differ in, and how severe each kind of difference is."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """What follows from a difference."""

    REFUSED = "refused"
    """Nothing can be compared: every case of the candidate is an error."""
    FAILED = "failed"
    """Plain use of the candidate breaks: its ``artifact_differences`` gate fails."""
    NOTED = "noted"
    """The report tells it; no verdict depends on it."""


@dataclass(frozen=True)
class Kind:
    """A kind of difference: its severity, and the reason for it in a sentence."""

    severity: Severity
    reason: str


_REFUSED, _FAILED, _NOTED = Severity.REFUSED, Severity.FAILED, Severity.NOTED
KINDS: Mapping[str, Kind] = {
    "special token": Kind(_REFUSED, "The two models are asked different things."),
    "tokens": Kind(_REFUSED, "The same text is other tokens, so nothing can be paired."),
    "chat template": Kind(_REFUSED, "An instruct model is trained on its template."),
    "context length": Kind(_REFUSED, "The candidate cannot read what the baseline reads."),
    "label map": Kind(_REFUSED, "The same answer has another name."),
    "normalization": Kind(_FAILED, "Every layer computes something else."),
    "activation": Kind(_FAILED, "Every layer computes something else."),
    "scaling": Kind(_FAILED, "Multipliers and soft caps are part of what was trained."),
    "rope": Kind(_FAILED, "Positions are rotated by angles that the weights do not know."),
    "attention pattern": Kind(_FAILED, "Tokens see others than they saw in training."),
    "heads": Kind(_FAILED, "The same weights are split into other heads."),
    "expert routing": Kind(_FAILED, "Tokens go to other experts, or to more or fewer."),
    "tied head": Kind(_FAILED, "The output layer of the baseline gives way to the embedding."),
    "padding token": Kind(_FAILED, "What is padded is read or counted otherwise in a batch."),
    "first token of the decoder": Kind(_FAILED, "The decoder begins with another token."),
    "setting": Kind(_FAILED, "Its class computes something else; no compression changes it."),
    "end of generation": Kind(_FAILED, "Plain generate runs on, or stops at an ordinary token."),
    "length of generation": Kind(_FAILED, "Plain generate cuts its answers off."),
    "generation setting": Kind(_FAILED, "Plain generate samples, penalizes or forbids otherwise."),
    "unreadable generation_config.json": Kind(
        _FAILED, "Other readers stop at it, and transformers silently goes without."
    ),
    "further end tokens": Kind(_NOTED, "Special tokens that no answer holds may end one."),
    "milder generation setting": Kind(
        _NOTED, "A default in place of the baseline's setting, or one without effect."
    ),
    "head of its own": Kind(_NOTED, "A quantized or trimmed output layer is stored by itself."),
    "longer context": Kind(_NOTED, "Nothing is read otherwise up to the baseline's length."),
    "size": Kind(_NOTED, "Structured pruning, low rank and students change sizes."),
    "setting of a student": Kind(
        _NOTED, "Weights of another width were trained with settings of their own."
    ),
    "special token id": Kind(_NOTED, "The tokenizer and generation are compared themselves."),
    "training setting": Kind(_NOTED, "Dropout and the like do not act in evaluation."),
    "unknown setting": Kind(_NOTED, "transformers does not know it; another engine may."),
}
"""Every kind of difference that can be found. This table alone decides on severities."""


@dataclass(frozen=True)
class Finding:
    """A difference between a baseline and a candidate.

    Attributes:
        kind: a key of :data:`KINDS`.
        text: names what differs and shows both sides, in one line.
    """

    kind: str
    text: str

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity


@dataclass(frozen=True)
class CheckpointComparison:
    """What was found, and what was looked at.

    Attributes:
        findings: all differences.
        compared: what was held side by side, for the report's manifest.
        not_compared: what could not be, and why.
    """

    findings: tuple[Finding, ...] = ()
    compared: tuple[str, ...] = ()
    not_compared: Mapping[str, str] = field(default_factory=dict)

    def of(self, severity: Severity) -> list[str]:
        """The texts of all findings of a severity."""
        return [found.text for found in self.findings if found.severity == severity]

    @staticmethod
    def joined(parts: Iterable["CheckpointComparison"]) -> "CheckpointComparison":
        """Several comparisons as one."""
        parts = list(parts)
        return CheckpointComparison(
            tuple(found for part in parts for found in part.findings),
            tuple(dict.fromkeys(name for part in parts for name in part.compared)),
            {name: why for part in parts for name, why in part.not_compared.items()},
        )

    def to_json(self) -> str:
        """A text that :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "CheckpointComparison":
        """What :meth:`to_json` wrote."""
        fields = json.loads(text)
        return CheckpointComparison(
            tuple(Finding(**found) for found in fields["findings"]),
            tuple(fields["compared"]),
            fields["not_compared"],
        )


def table() -> str:
    """All kinds as a table in Markdown, the severest first."""
    order = list(Severity)
    kinds = sorted(KINDS.items(), key=lambda item: order.index(item[1].severity))
    rows = [f"| {name} | {kind.severity} | {kind.reason} |" for name, kind in kinds]
    return "\n".join(["| kind | severity | why |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(table())
