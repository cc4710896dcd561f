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
    "as the baseline": Kind(_NOTED, "The baseline has the same fault."),
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
    "tied head": Kind(_FAILED, "The embedding replaces the output layer of the baseline."),
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
    "head of its own": Kind(_NOTED, "A quantized or trimmed output layer is stored separately."),
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
"""Every kind of difference that can be found. This table alone decides on severities."""


@dataclass(frozen=True)
class Finding:
    """A difference between a baseline and a candidate.

    Attributes:
        kind: a key of :data:`KINDS`.
        text: names what differs and shows both sides, in one line.

    Raises:
        ValueError: there is no such kind.
    """

    kind: str
    text: str

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of difference")

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
        """What :meth:`to_json` wrote.

        Raises:
            ValueError: ``text`` is something else.
        """
        try:
            fields = json.loads(text)
            findings = tuple(
                Finding(str(found["kind"]), str(found["text"])) for found in fields["findings"]
            )
            compared = tuple(map(str, fields["compared"]))
            unable = {str(name): str(why) for name, why in fields["not_compared"].items()}
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError("not a comparison of two checkpoints") from error
        return CheckpointComparison(findings, compared, unable)


def table() -> str:
    """All kinds as a table in Markdown, the severest first."""
    order = list(Severity)
    kinds = sorted(KINDS.items(), key=lambda item: order.index(item[1].severity))
    rows = [f"| {name} | {kind.severity} | {kind.reason} |" for name, kind in kinds]
    return "\n".join(["| kind | severity | why |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(table())
