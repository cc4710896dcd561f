"""Differences between two checkpoints, their kinds, and the severity of each kind."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """The consequence of a difference."""

    REFUSED = "refused"
    """Nothing can be compared: every case of the candidate is an error."""
    FAILED = "failed"
    """Plain use of the candidate breaks: its ``artifact_differences`` gate fails."""
    NOTED = "noted"
    """The report lists the difference; no verdict depends on it."""


@dataclass(frozen=True)
class Kind:
    """A kind of difference: its severity, and the reason for that severity in a sentence."""

    severity: Severity
    reason: str


_REFUSED, _FAILED, _NOTED = Severity.REFUSED, Severity.FAILED, Severity.NOTED
KINDS: Mapping[str, Kind] = {
    "special token": Kind(_REFUSED, "The two models would be given different inputs."),
    "tokens": Kind(_REFUSED, "The same text becomes different tokens, so nothing can be paired."),
    "stress text": Kind(_FAILED, "Texts that the data do not contain become different tokens."),
    "decoded text": Kind(_FAILED, "Users see a different answer from the one that was judged."),
    "chat template": Kind(_REFUSED, "An instruction-tuned model is trained on its template."),
    "chat token": Kind(_REFUSED, "The model receives characters instead of a chat token."),
    "other chat template": Kind(
        _FAILED, "Which template is used depends on the program that reads it."
    ),
    "text of the chat template": Kind(_NOTED, "Another conversation may show the difference."),
    "flag for other readers": Kind(_NOTED, "transformers 5 ignores it; other programs may not."),
    "vocabulary for other readers": Kind(
        _NOTED, "Some programs read it instead of tokenizer.json."
    ),
    "new chat template": Kind(_NOTED, "The baseline has none, so no chat can be judged."),
    "added token": Kind(_FAILED, "It becomes different tokens, or is shown where it was hidden."),
    "flags of an added token": Kind(_NOTED, "No text was found for which it makes a difference."),
    "vocabulary": Kind(_FAILED, "Texts that contain the entry become different tokens."),
    "unused vocabulary": Kind(_NOTED, "The baseline reserves the entry and does not use it."),
    "more vocabulary": Kind(_NOTED, "The compared texts contain no such token."),
    "size of the vocabulary": Kind(_NOTED, "Distributions are compared over the shared entries."),
    "truncation": Kind(_FAILED, "Inputs that fit the model are truncated silently."),
    "no truncation": Kind(
        _FAILED, "Inputs that were truncated before now exceed the model's context."
    ),
    "other limit": Kind(_NOTED, "It truncates no input that fits the model."),
    "fixed padding": Kind(_FAILED, "Every input is padded, even a single one."),
    "padding side": Kind(
        _FAILED, "In a batch, the model continues from padding, or positions shift."
    ),
    "other padding": Kind(_NOTED, "Padding is masked."),
    "no padding token": Kind(_FAILED, "A batch can no longer be padded."),
    "truncation side": Kind(_FAILED, "The model reads a different part of a long text."),
    "other truncation side": Kind(_NOTED, "Prompts are truncated only on request."),
    "tokenizer.json": Kind(_FAILED, "Servers that read this file give the model different tokens."),
    "no tokenizer.json": Kind(_NOTED, "Some servers read only this file."),
    "plain use": Kind(_FAILED, "Users of transformers encounter it at once."),
    "index of weights": Kind(_FAILED, "Programs that follow the index miss tensors."),
    "tensor in two files": Kind(_REFUSED, "It is ambiguous which value is meant."),
    "tied weights": Kind(_FAILED, "Programs that follow the flag compute a different function."),
    "untied weights": Kind(_REFUSED, "The output layer would be random."),
    "fault of both": Kind(_NOTED, "The baseline has the same fault."),
    "unread weights": Kind(_NOTED, "Other programs may load them."),
    "loader's warning": Kind(_NOTED, "Its meaning depends on the warning."),
    "loader's repair": Kind(_NOTED, "The model is judged as it is loaded."),
    "context length": Kind(
        _REFUSED, "The candidate cannot read inputs that the baseline can read."
    ),
    "label map": Kind(_REFUSED, "The same class has a different name."),
    "normalization": Kind(_FAILED, "Every layer computes a different function."),
    "activation": Kind(_FAILED, "Every layer computes a different function."),
    "scaling": Kind(_FAILED, "Multipliers and soft caps are part of the trained function."),
    "rope": Kind(
        _FAILED, "Positions are rotated by angles that the weights were not trained with."
    ),
    "attention pattern": Kind(_FAILED, "Tokens attend to different tokens than in training."),
    "heads": Kind(_FAILED, "The same weights are split into different heads."),
    "expert routing": Kind(
        _FAILED, "Tokens are routed to different experts, or to a different number."
    ),
    "tied output layer": Kind(_FAILED, "The embedding replaces the output layer of the baseline."),
    "padding token": Kind(_FAILED, "In a batch, padding is read or counted differently."),
    "first token of the decoder": Kind(_FAILED, "The decoder begins with a different token."),
    "setting": Kind(
        _FAILED, "The model computes a different function; no compression changes this setting."
    ),
    "end of generation": Kind(
        _FAILED, "Plain generate does not stop, or stops at an ordinary token."
    ),
    "length of generation": Kind(_FAILED, "Plain generate truncates its answers."),
    "generation setting": Kind(
        _FAILED, "Plain generate samples, penalizes or forbids tokens differently."
    ),
    "unreadable generation_config.json": Kind(
        _FAILED, "Other programs stop with an error, and transformers silently ignores it."
    ),
    "further end tokens": Kind(_NOTED, "Only special tokens that occur in no answer are added."),
    "milder generation setting": Kind(
        _NOTED, "It is a default in place of the baseline's setting, or has no effect."
    ),
    "separate output layer": Kind(
        _NOTED, "A quantized or trimmed output layer is stored separately."
    ),
    "longer context": Kind(_NOTED, "Up to the baseline's length, nothing is read differently."),
    "size": Kind(_NOTED, "Structured pruning, low rank and distillation change sizes."),
    "setting of a student": Kind(
        _NOTED, "Weights of another width were trained with their own settings."
    ),
    "special token id": Kind(_NOTED, "Tokenizer and generation are compared directly."),
    "training setting": Kind(_NOTED, "Dropout and similar settings have no effect in evaluation."),
    "unknown setting": Kind(_NOTED, "transformers does not know it; another engine may."),
    "GGUF loading": Kind(_REFUSED, "The loaded model is not the one in the file."),
    "GGUF header": Kind(_FAILED, "llama.cpp computes a different function from the baseline."),
    "GGUF tokenizer": Kind(_FAILED, "llama.cpp reads tokens and templates from the header."),
    "GGUF ends": Kind(_FAILED, "llama.cpp ends its answers at different tokens."),
    "GGUF note": Kind(_NOTED, "Compression may change it, or it has no effect on the data."),
    "quantization types": Kind(_NOTED, "They describe the file and are not a fault."),
}
"""All kinds of difference. Severities are defined only here."""


@dataclass(frozen=True)
class Finding:
    """A difference between a baseline and a candidate.

    Attributes:
        kind: a key of :data:`KINDS`.
        text: describes the difference, and shows both sides, in one line.

    Raises:
        ValueError: the kind is unknown.
    """

    kind: str
    text: str

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of difference: {self.kind!r}")

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity


@dataclass(frozen=True)
class CheckpointComparison:
    """The result of a comparison of two checkpoints.

    Attributes:
        findings: the differences.
        compared: names of the properties that were compared.
        not_compared: names of the properties that could not be compared, and the reasons.
    """

    findings: tuple[Finding, ...] = ()
    compared: tuple[str, ...] = ()
    not_compared: Mapping[str, str] = field(default_factory=dict)

    def of(self, severity: Severity) -> list[str]:
        """Return the texts of all findings of a severity."""
        return [finding.text for finding in self.findings if finding.severity == severity]

    @staticmethod
    def joined(parts: Iterable["CheckpointComparison"]) -> "CheckpointComparison":
        """Join several comparisons into one."""
        parts = list(parts)
        return CheckpointComparison(
            tuple(finding for part in parts for finding in part.findings),
            tuple(dict.fromkeys(name for part in parts for name in part.compared)),
            {name: reason for part in parts for name, reason in part.not_compared.items()},
        )

    def to_json(self) -> str:
        """Return a text that :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "CheckpointComparison":
        """Return the comparison that :meth:`to_json` wrote.

        Raises:
            ValueError: ``text`` is not such a comparison.
        """
        try:
            fields = json.loads(text)
            return CheckpointComparison(
                tuple(Finding(str(item["kind"]), str(item["text"])) for item in fields["findings"]),
                tuple(map(str, fields["compared"])),
                {str(name): str(reason) for name, reason in fields["not_compared"].items()},
            )
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError("not a comparison of two checkpoints") from error


def table() -> str:
    """Return a Markdown table of all kinds, sorted by decreasing severity."""
    order = list(Severity)
    kinds = sorted(KINDS.items(), key=lambda item: order.index(item[1].severity))
    rows = [f"| {name} | {kind.severity} | {kind.reason} |" for name, kind in kinds]
    return "\n".join(["| kind | severity | why |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(table())
