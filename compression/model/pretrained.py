"""Load a pretrained model and its tokenizer, and reject incomplete checkpoints."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from compression_gates.compression.calibration.resources import SHARE, free_memory
from compression_gates.compression.errors import CompressionError, is_failure, reason_of
from compression_gates.compression.model.finite import check_finite
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.model.references import check_reference

AUTO = "auto"
"""The device that :func:`place` chooses."""


def load(
    name: str, option: str, device: str | torch.device = "cpu", auto: type | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model, in evaluation mode, and the tokenizer of a directory or hub id.

    Args:
        name: the directory or hub id.
        option: the option or argument that it was given as, for messages.
        device: the device to load the model to.
        auto: the class to load the model with; by default the one that it was saved from.

    Raises:
        CompressionError: there is no such checkpoint, it has no head, it is compressed, its weights
            are missing, unexpected, of another shape or not finite, or its tokenizer does not fit.
    """
    location = check_reference(name, option)
    with _explained(name, option):
        config = transformers.AutoConfig.from_pretrained(location)
        if getattr(config, "quantization_config", None) is not None:
            raise CompressionError(
                f"{option} {name} is already compressed: its config.json has a "
                "quantization_config; give the uncompressed model"
            )
        model, report = (auto or _class_of(config, name, option)).from_pretrained(
            location, dtype="auto", use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
        if model.can_generate():
            _check_generation_config(location)
        tokenizer = transformers.AutoTokenizer.from_pretrained(location)
    if problem := loading_problem(report):
        raise CompressionError(f"{option} {name} {problem}")
    check_finite(model, f"{option} {name}: ")
    last, rows = max(tokenizer.get_vocab().values()), len(model.get_input_embeddings().weight)
    if last >= rows:
        raise CompressionError(
            f"{option} {name}: its tokenizer has ids up to {last}, but its embedding has only "
            f"{rows} rows; use the model's own tokenizer"
        )
    return model.eval().to(device), tokenizer


def loading_problem(report: Mapping[str, Collection]) -> str:
    """Describe the first difference between a checkpoint and its model, or return an empty string.

    Args:
        report: the loading info of ``from_pretrained``: ``missing_keys``, ``unexpected_keys``, and
            ``mismatched_keys``, which are tuples of name, shape in the file and shape in the model.
    """
    for key in sorted(report["missing_keys"]):
        return f"lacks {key}"
    for key in sorted(report["unexpected_keys"]):
        return f"has unexpected {key}"
    for key, shape, expected in sorted(report["mismatched_keys"]):
        return f"has shape {tuple(shape)} for {key}, but the model expects {tuple(expected)}"
    return ""


def check_device(option: str, device: object) -> None:
    """Raise a CompressionError unless ``device`` is valid and available."""
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise CompressionError(f"{option} {device}: give cpu, cuda, cuda:N or auto")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise CompressionError(f"{option} {device}: this machine has no CUDA device")


def place(model: PreTrainedModel, device: str) -> str | None:
    """Move a model in host memory to a device.

    Args:
        model: the model.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``. ``auto`` is the first GPU, and the CPU if
            there is none.

    Returns:
        None, or the device on which calibration runs one block at a time, because ``auto`` left a
        model in host memory that takes more than half of the GPU's free memory.
    """
    if device == AUTO:
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        if device != "cpu" and size > SHARE * free_memory(torch.device(device)):
            return device
    model.to(device)
    return None


def _class_of(config, name: str, option: str) -> type:
    architecture = (config.architectures or ["none"])[0]
    model_class = getattr(transformers, str(architecture), None)
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise CompressionError(f"{option} {name}: transformers has no architecture {architecture}")
    if "For" not in architecture and not architecture.endswith(("LMHeadModel", "MTModel")):
        raise CompressionError(
            f"{option} {name}: {architecture} has no head for a task; give a model for a task, "
            "such as one for causal language modeling"
        )
    return model_class


def _check_generation_config(location: str) -> None:
    """Raise an error if the file cannot be read, where ``from_pretrained`` would ignore it."""
    file = cached_file(
        location, "generation_config.json", _raise_exceptions_for_missing_entries=False
    )
    if file is not None:
        transformers.GenerationConfig.from_pretrained(location)


@contextmanager
def _explained(name: str, option: str) -> Iterator[None]:
    """Suppress logs and progress bars, and convert errors to a CompressionError on one line."""
    try:
        with quiet():
            yield
    except CompressionError:
        raise
    except BaseException as error:  # a damaged checkpoint can cause any error
        if not is_failure(error):
            raise
        raise CompressionError(f"{option} {name} does not load: {reason_of(error)}") from error
