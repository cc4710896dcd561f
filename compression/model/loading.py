"""Loads a model that a user names, whole or not at all."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from compression_gates.compression.errors import CompressionError, is_failure, reason_of
from compression_gates.compression.model.finite import check_finite
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.model.references import check_reference

_PROBLEMS = {
    "missing_keys": "lacks",
    "unexpected_keys": "has unexpected",
    "mismatched_keys": "has the wrong shape for",
}


def load(
    name: str, option: str, device: str | torch.device = "cpu", auto: type | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model, in evaluation mode, and tokenizer of a directory or hub id.

    Args:
        name: the directory or hub id.
        option: what the user gave it as, for messages.
        device: where the model goes.
        auto: the class of transformers to load it as; by default the one that it was saved as.

    Raises:
        CompressionError: no such checkpoint, no head, compressed already, weights that are
            missing, unexpected, of another shape or not finite, or a tokenizer of another model.
    """
    location = check_reference(name, option)
    with _explained(name, option):
        config = transformers.AutoConfig.from_pretrained(location)
        if getattr(config, "quantization_config", None) is not None:
            raise CompressionError(
                f"{option} {name} is compressed already, as its quantization_config says; "
                "start from the uncompressed model"
            )
        model, report = (auto or _class_of(config, name, option)).from_pretrained(
            location, dtype="auto", use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
        if model.can_generate():
            _check_generation_config(location)
        tokenizer = transformers.AutoTokenizer.from_pretrained(location)
    for field, verb in _PROBLEMS.items():
        if report[field]:
            key = min(key if isinstance(key, str) else str(key[0]) for key in report[field])
            raise CompressionError(f"{option} {name} {verb} {key}")
    check_finite(model, f"{option} {name}: ")
    known, held = max(tokenizer.get_vocab().values()), len(model.get_input_embeddings().weight)
    if known >= held:
        raise CompressionError(
            f"{option} {name}: its tokenizer gives ids up to {known}, its embedding holds {held}"
        )
    return model.eval().to(device), tokenizer


def check_device(option: str, device: object) -> None:
    """Raises a CompressionError unless there is such a device."""
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise CompressionError(f"{option} {device}: give cpu, cuda or cuda:N")
    if device != "cpu" and not torch.cuda.is_available():
        raise CompressionError(f"{option} {device}: this machine has no CUDA device")


def _class_of(config, name: str, option: str) -> type:
    architecture = (config.architectures or ["none"])[0]
    found = getattr(transformers, str(architecture), None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise CompressionError(
            f"{option} {name}: its architecture {architecture} is not one that transformers has"
        )
    if "For" not in architecture and not architecture.endswith(("LMHeadModel", "MTModel")):
        raise CompressionError(
            f"{option} {name}: {architecture} has no head, so there is nothing to judge; "
            "name a model for a task"
        )
    return found


def _check_generation_config(location: str) -> None:
    """Raises an error where the file cannot be read: a loader goes on without it."""
    file = cached_file(
        location, "generation_config.json", _raise_exceptions_for_missing_entries=False
    )
    if file is not None:
        transformers.GenerationConfig.from_pretrained(location)


@contextmanager
def _explained(name: str, option: str) -> Iterator[None]:
    """Keeps the loaders' logs and bars off the terminal, and puts their errors in one line."""
    try:
        with quiet():
            yield
    except CompressionError:
        raise
    except BaseException as error:  # a checkpoint is data: whatever is wrong with it is told
        if not is_failure(error):
            raise
        raise CompressionError(f"{option} {name} does not load: {reason_of(error)}") from error
