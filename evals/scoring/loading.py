"""Loads a checkpoint whole, or says what is wrong with it."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from evals.checkpoint import CAUSAL, CLASSIFIER, Checkpoint
from evals.errors import EvalError

_AUTO = {CAUSAL: AutoModelForCausalLM, CLASSIFIER: AutoModelForSequenceClassification}
REASON = 300
"""Characters that are told of a loader's own error."""
_NO_LIMIT = 1 << 30
_PROBLEMS = {
    "missing_keys": "lacks",
    "unexpected_keys": "has unexpected",
    "mismatched_keys": "has the wrong shape for",
}


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode on its device, and its tokenizer."""

    checkpoint: Checkpoint
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def max_tokens(self) -> int:
        """The longest input that the model takes, special tokens included."""
        limit = getattr(self.model.config, "max_position_embeddings", None) or _NO_LIMIT
        for name, module in self.model.named_modules():
            # RoBERTa counts positions from behind its padding index.
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                behind = 0 if module.padding_idx is None else module.padding_idx + 1
                limit = min(limit, module.num_embeddings - behind)
        return limit


def load(checkpoint: Checkpoint, device: str = "cpu", trust_remote_code: bool = False) -> Loaded:
    """Loads model and tokenizer in the dtype that the checkpoint names.

    transformers "loads" a checkpoint that lacks weights with random ones and only logs it; here
    every missing, unexpected or mismatched key is an error.

    Raises:
        EvalError: names the checkpoint and the first keys at fault, or the loader's own reason.
    """
    with _explained(checkpoint):
        model, report = _AUTO[checkpoint.kind].from_pretrained(
            checkpoint.path,
            dtype="auto",
            output_loading_info=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            trust_remote_code=trust_remote_code,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.path, trust_remote_code=trust_remote_code
        )
    for field, verb in _PROBLEMS.items():
        if report.get(field):
            raise EvalError(f"{checkpoint.path} {verb} {_some(report[field])}")
    known, held = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
    if known >= held:
        raise EvalError(
            f"{checkpoint.path}: its tokenizer gives ids up to {known}, its embedding holds {held}"
        )
    if report.get("error_msgs"):
        raise EvalError(f"{checkpoint.path} does not load: {report['error_msgs'][0]}")
    with _explained(checkpoint), torch.inference_mode():
        # Packed weights are unpacked by the first forward.
        model.eval().to(device)(input_ids=torch.tensor([[0]], device=device))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise EvalError(f"{checkpoint.path}: {name} holds values that are not finite")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masked wherever it stands
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if checkpoint.kind == CAUSAL:
        # Decoding is greedy for everyone; penalties that a checkpoint brings are not compression.
        model.generation_config = GenerationConfig()
    return Loaded(checkpoint, model, tokenizer)


@contextmanager
def _explained(checkpoint: Checkpoint) -> Iterator[None]:
    """Keeps the loaders' logs and bars off the terminal, and puts their errors in one line."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    except Exception as error:
        reason = " ".join(str(error).split())[:REASON] or "no reason given"
        raise EvalError(
            f"{checkpoint.path} does not load: {type(error).__name__}: {reason}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def _some(keys: Iterable, shown: int = 3) -> str:
    names = sorted(key if isinstance(key, str) else str(key[0]) for key in keys)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def linear_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Weights ``(out, in)`` of the linear layers by name, each shared tensor once."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear) and weight is not None:
            found.setdefault(id(weight), (name, weight))
    return dict(found.values())
