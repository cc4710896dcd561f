"""Plain use of a checkpoint: through transformers, with the checkpoint's own settings."""

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
"""Two texts of different lengths, so that a batch of both is padded."""
BATCH, GENERATION, PADDED = "a padded batch", "generation", "generation from a padded batch"
NEW_TOKENS, MOST_SEQUENCES = 4, 64
_SHOWN = 200
"""Maximum number of characters quoted from an exception."""


@dataclass(frozen=True)
class PlainUse:
    """The results of loading a checkpoint and of plain use.

    Attributes:
        failures: for each use that was tried, the reason why it failed, or an empty string.
        warnings: warnings while the checkpoint was loaded.
        repairs: names of tensors that loading changed without a warning, by a verb that describes
            the change.
        usage_warnings: warnings while uses were tried.
    """

    failures: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    repairs: Mapping[str, str] = field(default_factory=dict)
    usage_warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return a text that :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "PlainUse":
        """Return the results that :meth:`to_json` wrote.

        Raises:
            ValueError: ``text`` is not such a result.
        """
        try:
            fields = json.loads(text)
            return PlainUse(
                {str(use): str(reason) for use, reason in fields["failures"].items()},
                tuple(map(str, fields["warnings"])),
                {str(verb): str(names) for verb, names in fields["repairs"].items()},
                tuple(map(str, fields["usage_warnings"])),
            )
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError("not a result of plain use") from error


def compare(baseline: PlainUse, candidate: PlainUse) -> CheckpointComparison:
    """Find uses that fail only with the candidate, and warnings and repairs of its loader."""
    findings = []
    for use, reason in candidate.failures.items():
        if reason and baseline.failures.get(use) == "":
            text = f"{use} works with the baseline and fails with the candidate: {reason}"
            findings.append(Finding("plain use", text))
    for text in candidate.warnings:
        also = ", as for the baseline" if text in baseline.warnings else ""
        findings.append(Finding("loader's warning", f"the loader warns{also}: {text}"))
    for text in candidate.usage_warnings:
        if text not in (*baseline.usage_warnings, *candidate.warnings):
            findings.append(Finding("loader's warning", f"transformers warns in use: {text}"))
    for verb, names in candidate.repairs.items():
        if baseline.repairs.get(verb) != names:
            findings.append(Finding("loader's repair", f"the loader {verb} {names}"))
    not_compared = {
        use: f"it fails with the baseline ({reason})"
        for use, reason in baseline.failures.items()
        if reason
    }
    compared = [use for use in candidate.failures if use not in not_compared]
    return CheckpointComparison(tuple(findings), ("loading", *compared), not_compared)


def attempt(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", kind: str, device: object
) -> dict[str, str]:
    """Run a model on a padded batch and, if it can generate, generate with and without padding.

    Returns:
        For each use, the reason why it failed, or an empty string.

    Raises:
        MemoryError, torch.OutOfMemoryError: memory is exhausted, which is no fault of the model.
    """
    uses: dict[str, Callable[[], object]] = {}
    if kind != SEQ2SEQ:
        uses[BATCH] = lambda: _forward(model, tokenizer, device)
    if model.can_generate():
        uses[GENERATION] = lambda: _generate(model, tokenizer, TEXTS[:1], device)
        uses[PADDED] = lambda: _generate(model, tokenizer, TEXTS, device)
    return {name: _failure(use) for name, use in uses.items()}


def _failure(use: Callable[[], object]) -> str:
    """Return the reason why a use fails, or an empty string."""
    import torch

    try:
        with torch.random.fork_rng(), torch.inference_mode():  # generation may sample
            use()
    except (MemoryError, torch.OutOfMemoryError):
        raise
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
    config = model.generation_config
    count = max(config.num_beams or 1, config.num_return_sequences or 1)
    if count > MOST_SEQUENCES:
        raise ValueError(f"generation_config.json asks for {count} sequences at once")
    return model.generate(
        **batch,
        max_new_tokens=NEW_TOKENS,
        disable_compile=True,  # compiling takes minutes and does not change the result
        logits_processor=[_early_end(config)] if len(texts) > 1 else [],
    )


def _early_end(
    config: "GenerationConfig",
) -> Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]:
    """Return a logits processor that ends the first sequence of a batch at once, so that padding is
    appended to it."""
    ids = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    beams = config.num_beams or 1

    def process(tokens: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        if ids and ids[0] is not None:
            scores = scores.clone()
            scores[:beams] = -float("inf")
            scores[:beams, ids[0]] = 0
        return scores

    return process
