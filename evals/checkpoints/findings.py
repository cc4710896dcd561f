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
    "normalization": Kind(_FAILED, "Every layer computes something else."),
    "context length": Kind(_REFUSED, "The candidate cannot read what the baseline reads."),
    "GGUF loading": Kind(_REFUSED, "The model that is loaded is not the one in the file."),
    "GGUF header": Kind(_FAILED, "llama.cpp computes another function than the baseline."),
    "GGUF tokenizer": Kind(_FAILED, "llama.cpp reads tokens and templates from the header."),
    "GGUF ends": Kind(_FAILED, "llama.cpp ends its answers elsewhere."),
    "GGUF note": Kind(_NOTED, "Compression may change it, or the data cannot show it."),
    "quantization types": Kind(_NOTED, "They say what the file is, and are no fault."),
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
