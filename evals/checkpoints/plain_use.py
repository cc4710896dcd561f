"""Whether a checkpoint can be used as it is, through transformers alone and with its defaults."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints.checkpoint import SEQ2SEQ
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.errors import first_line
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.guard import is_panic

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

TEXTS = (
    "The train leaves at noon.",
    "A much longer text: the station is closed on Sundays, so go.",
)
"""Two texts of different length, so that a batch of them is padded."""
BATCH, GENERATION, PADDED = "a padded batch", "generation", "generation from a padded batch"
NEW_TOKENS, MOST_SEQUENCES = 4, 64
_SHOWN = 200


@dataclass(frozen=True)
class PlainUse:
    """What loading a checkpoint and using it plainly led to.

    Attributes:
        failures: for each thing that was tried, the reason why it failed, or nothing.
        warnings: what was logged while it was loaded.
        repairs: what loading changed without a warning, by how it is told.
        usage_warnings: what was logged while it was tried.
    """

    failures: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    repairs: Mapping[str, str] = field(default_factory=dict)
    usage_warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """A text that :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "PlainUse":
        """What :meth:`to_json` wrote.

        Raises:
            ValueError: ``text`` is something else.
        """
        try:
            found = json.loads(text)
            warned = [tuple(map(str, found[name])) for name in ("warnings", "usage_warnings")]
            told = [
                {str(what): str(why) for what, why in found[name].items()}
                for name in ("failures", "repairs")
            ]
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError("no result of plain use") from error
        return PlainUse(told[0], warned[0], told[1], warned[1])


def compare(baseline: PlainUse, candidate: PlainUse) -> CheckpointComparison:
    """What works with a baseline and not with a candidate, and what its loader says and repairs."""
    findings = []
    for what, reason in candidate.failures.items():
        if reason and baseline.failures.get(what) == "":
            text = f"{what} works with the baseline and fails with the candidate: {reason}"
            findings.append(Finding("plain use", text))
    for text in candidate.warnings:
        also = ", as for the baseline" if text in baseline.warnings else ""
        findings.append(Finding("loader's warning", f"the loader warns{also}: {text}"))
    for text in candidate.usage_warnings:
        if text not in (*baseline.usage_warnings, *candidate.warnings):
            findings.append(Finding("loader's warning", f"transformers warns in use: {text}"))
    for what, names in candidate.repairs.items():
        if baseline.repairs.get(what) != names:
            findings.append(Finding("loader's repair", f"the loader {what} {names}"))
    impossible = {
        what: f"it fails with the baseline ({reason})"
        for what, reason in baseline.failures.items()
        if reason
    }
    tried = tuple(what for what in candidate.failures if what not in impossible)
    return CheckpointComparison(tuple(findings), ("loading", *tried), impossible)


def attempt(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", kind: str, device: object
) -> dict[str, str]:
    """Runs a model on a padded batch and, where it generates, lets it generate.

    Returns:
        For each thing that was tried, the reason why it failed, or an empty text.
    """
    tries: dict[str, Callable[[], None]] = {}
    if kind != SEQ2SEQ:
        tries[BATCH] = lambda: _forward(model, tokenizer, device)
    if model.can_generate():
        tries[GENERATION] = lambda: _generate(model, tokenizer, TEXTS[:1], device)
        tries[PADDED] = lambda: _generate(model, tokenizer, TEXTS, device)
    return {what: _reason(run) for what, run in tries.items()}


def _reason(run: Callable[[], None]) -> str:
    import torch

    try:
        with torch.random.fork_rng(), torch.inference_mode():  # it may sample
            run()
    except (MemoryError, torch.OutOfMemoryError):
        raise  # of the machine, and no fault of the checkpoint
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        return f"{type(error).__name__}: {on_one_line(first_line(error))[:_SHOWN]}"
    return ""


def _forward(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", device: object
) -> None:
    batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt").to(device)
    output = model(**batch)
    first = output[0] if isinstance(output, tuple) else next(iter(output.values()))
    if first.shape[:2] == batch["input_ids"].shape and "attention_mask" in batch:
        first = first[batch["attention_mask"].bool()]
    if not first.isfinite().all():
        raise ArithmeticError("the logits are not finite")


def _generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: tuple[str, ...],
    device: object,
) -> "torch.Tensor":
    batch = tokenizer(list(texts), padding=len(texts) > 1, return_tensors="pt").to(device)
    asked = model.generation_config
    count = max(asked.num_beams or 1, asked.num_return_sequences or 1)
    if count > MOST_SEQUENCES:
        raise ValueError(f"generation_config.json asks for {count} sequences at once")
    # Compiling takes minutes and changes no result.
    return model.generate(
        **batch,
        max_new_tokens=NEW_TOKENS,
        disable_compile=True,
        logits_processor=[_early_end(asked)] if len(texts) > 1 else [],
    )


def _early_end(
    asked: "GenerationConfig",
) -> Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]:
    """Ends the first row of a batch at once, so that padding is written behind it."""
    ends = asked.eos_token_id if isinstance(asked.eos_token_id, list) else [asked.eos_token_id]
    beams = asked.num_beams or 1

    def process(ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        if ends and ends[0] is not None:
            scores = scores.clone()
            scores[:beams] = -float("inf")
            scores[:beams, ends[0]] = 0
        return scores

    return process
