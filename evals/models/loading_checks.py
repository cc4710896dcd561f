"""Checks of a loaded model: transformers loads many broken checkpoints without an error."""

from collections.abc import Iterable, Mapping
from contextlib import suppress

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, Checkpoint
from compression_gates.evals.checkpoints.formats import PLAIN, format_of
from compression_gates.evals.errors import EvalError, listed
from compression_gates.evals.models.configurations import read_config

MOST_PER_BYTE = 64
"""Maximum number of weights per byte: weights of one bit, and blocks of zeros left out."""
MOST_BUFFERED = 1 << 33
"""Maximum number of entries in the buffers of a model, such as masks."""
_PROBLEMS = {
    "missing_keys": "lacks",
    "unexpected_keys": "has unexpected",
    "mismatched_keys": "has the wrong shape for",
}
_INCOMPLETE = {
    "unexpected_keys": "has no parameter for",
    "mismatched_keys": "expects another shape of",
}
"""Problems of a format that transformers supports only in part."""


def check_size(checkpoint: Checkpoint, auto: type, trust_remote_code: bool) -> None:
    """Raise an EvalError if a configuration describes a model far larger than its weight files.

    transformers would allocate and initialize the weights that the files lack.
    """
    model = None
    with suppress(Exception), torch.device("meta"):  # loading reports what is wrong
        config = read_config(checkpoint, trust_remote_code)
        model = auto.from_config(config, trust_remote_code=trust_remote_code)
    if model is None:
        return
    weights = sum(parameter.numel() for parameter in model.parameters())
    buffered = sum(buffer.numel() for buffer in model.buffers())
    if weights > MOST_PER_BYTE * checkpoint.weight_bytes or buffered > MOST_BUFFERED:
        raise EvalError(
            f"{checkpoint.path}: its configuration describes {weights:,} weights and {buffered:,} "
            f"entries of buffers, but its weight files have only {checkpoint.weight_bytes:,} bytes"
        )


def check_kind(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    """Raise an EvalError for a decoder whose configuration sets ``is_encoder_decoder``."""
    if checkpoint.kind == CAUSAL and getattr(model.config, "is_encoder_decoder", False):
        source = checkpoint.source
        raise EvalError(
            f"{source.path}: config.json sets is_encoder_decoder, but {type(model).__name__} "
            "has no encoder"
        )


def check_complete(checkpoint: Checkpoint, report: Mapping[str, Iterable]) -> None:
    """Raise an EvalError for missing tensors and for tensors that the loader did not use."""
    source = checkpoint.source
    if readers := format_of(source.form).readers:
        for kind, verb in _INCOMPLETE.items():
            if report.get(kind):
                raise EvalError(
                    f"{checkpoint.path}: transformers {transformers.__version__} does not load "
                    f"{source.form} completely: it {verb} {first_names(report[kind])}; the file "
                    f"may be valid, but cannot be judged here; {readers} may read it"
                )
    for kind, verb in _PROBLEMS.items():
        if report.get(kind):
            raise EvalError(f"{checkpoint.path} {verb} {first_names(report[kind])}")
    if report.get("error_msgs"):
        raise EvalError(f"{checkpoint.path} does not load: {report['error_msgs'][0]}")


def check_ids(
    checkpoint: Checkpoint, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise an EvalError if a token has no row in the embedding."""
    largest = max(tokenizer.get_vocab().values())
    rows = model.get_input_embeddings().num_embeddings
    if largest >= rows:
        raise EvalError(
            f"{checkpoint.path}: its tokenizer gives ids up to {largest}, but its embedding has "
            f"{rows} rows"
        )


def check_finite(checkpoint: Checkpoint, model: PreTrainedModel, logits: torch.Tensor) -> None:
    """Raise an EvalError if weights, or logits where weights cannot be checked, are not finite.

    Weights cannot be checked where they are packed or offloaded. Not every library registers the
    scales of a packed weight as tensors.
    """
    is_checkable = checkpoint.form == PLAIN and not any(p.is_meta for p in model.parameters())
    if not is_checkable and not logits.isfinite().all():
        raise EvalError(f"{checkpoint.path} predicts values that are not finite")
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:  # offloaded
            continue
        if tensor.is_floating_point() and not _plain(tensor).isfinite().all():
            raise EvalError(f"{checkpoint.path}: {name} holds values that are not finite")


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor for which ``isfinite`` is implemented."""
    if not is_plain(tensor) and hasattr(tensor, "dequantize"):
        tensor = tensor.dequantize()
    return tensor.float() if tensor.element_size() == 1 else tensor


def is_plain(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is an ordinary one, not a library's subclass with packed values."""
    return type(tensor) in (torch.Tensor, nn.Parameter)


def first_names(keys: Iterable) -> str:
    """Return the first keys of a loader's report, which are names or tuples that begin with one."""
    return listed(sorted(key if isinstance(key, str) else str(key[0]) for key in keys))
