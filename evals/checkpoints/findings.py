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
    "stress text": Kind(_FAILED, "Texts that these data do not have are other tokens."),
    "decoded text": Kind(_FAILED, "Users read another answer than the one that was judged."),
    "chat template": Kind(_REFUSED, "An instruct model is trained on its template."),
    "chat token": Kind(_REFUSED, "The model reads letters where it knows a token of a chat."),
    "other chat template": Kind(_FAILED, "Which template is used depends on the reader."),
    "text of the chat template": Kind(_NOTED, "A chat that is not compared may show it."),
    "new chat template": Kind(_NOTED, "The baseline has none, so no chat can be judged."),
    "added token": Kind(_FAILED, "It is read as other tokens or shown where it was hidden."),
    "flags of an added token": Kind(_NOTED, "No text was found on which it matters."),
    "vocabulary": Kind(_FAILED, "Texts that hold the entry are other tokens."),
    "unused vocabulary": Kind(_NOTED, "The baseline keeps it in reserve."),
    "more vocabulary": Kind(_NOTED, "The compared texts hold no such token."),
    "size of the vocabulary": Kind(_NOTED, "Distributions are compared over the shared entries."),
    "truncation": Kind(_FAILED, "Inputs that the model takes are cut without a word."),
    "no truncation": Kind(_FAILED, "Inputs that used to be cut are longer than the model takes."),
    "other limit": Kind(_NOTED, "It cuts nothing that the model takes."),
    "fixed padding": Kind(_FAILED, "Every input is padded, also one that stands alone."),
    "padding side": Kind(_FAILED, "In a batch, the model goes on from padding or is shifted."),
    "other padding": Kind(_NOTED, "Padding is masked."),
    "no padding token": Kind(_FAILED, "A batch can no longer be padded."),
    "truncation side": Kind(_FAILED, "Of a long text the model reads another part."),
    "other truncation side": Kind(_NOTED, "Prompts are cut by whoever asks for it."),
    "tokenizer.json": Kind(_FAILED, "Servers that read this file give the model other tokens."),
    "no tokenizer.json": Kind(_NOTED, "Some servers read this file alone."),
    "flag for other readers": Kind(_NOTED, "transformers 5 leaves it aside, some do not."),
    "vocabulary for other readers": Kind(_NOTED, "Some read it in place of tokenizer.json."),
    "plain use": Kind(_FAILED, "Users of transformers meet it at once."),
    "index of weights": Kind(_FAILED, "Readers that go by the index miss tensors."),
    "tensor in two files": Kind(_REFUSED, "Which value is meant is not said."),
    "tied weights": Kind(_FAILED, "Readers that go by the flag compute something else."),
    "untied weights": Kind(_REFUSED, "The output layer would be random."),
    "as the baseline": Kind(_NOTED, "The baseline has the same fault."),
    "unread weights": Kind(_NOTED, "Other readers may take them."),
    "loader's warning": Kind(_NOTED, "What it means depends on the warning."),
    "loader's repair": Kind(_NOTED, "The model is judged as it is loaded."),
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
        for found in findings:
            if found.kind not in KINDS:
                raise ValueError(f"{found.kind!r} is no kind of difference")
        return CheckpointComparison(findings, compared, unable)


def table() -> str:
    """All kinds as a table in Markdown, the severest first."""
    order = list(Severity)
    kinds = sorted(KINDS.items(), key=lambda item: order.index(item[1].severity))
    rows = [f"| {name} | {kind.severity} | {kind.reason} |" for name, kind in kinds]
    return "\n".join(["| kind | severity | why |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(table())
