"""Checks of a configuration before any library acts on it.

Only ``config.json`` and the headers of the weight files are read, never the weights.
"""

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.files import CONFIG, json_object, weight_files
from compression_gates.evals.checkpoints.names import POSITIONS
from compression_gates.evals.errors import EvalError

_DEPTH = re.compile(r"(?:^|_)(?:layers?|blocks?)$")
"""Settings for how often a block is repeated, such as num_hidden_layers."""
SHARED_DEPTH = 256
"""Maximum number of layers that may share tensors, as those of ALBERT do."""
_POSITIONS = re.compile(rf"(^|_)({'|'.join(POSITIONS)}|seq_len)$|positions?(_embeddings)?$")
"""Settings for numbers of positions, also in parts of a model."""
MOST_LABELS = 1_000_000
"""Maximum number of classes; transformers builds a list of them when it reads a configuration."""
MOST_POSITIONS = 1 << 28
"""Maximum number of positions; some models build a table of them."""
_IN_GGUF = {"block_count": "blocks", "context_length": "n_ctx"}
"""Names in GGUF headers and the corresponding names in configurations."""
_FLASH = ("flash_attention_2", "flash_attention_3")
_IMPLEMENTATIONS = {
    "attn_implementation": ("eager", "sdpa", *_FLASH),
    "experts_implementation": ("eager", "batched_mm", "grouped_mm"),
    "chunkwise_kernel": ("chunkwise--native_autograd", "parallel--native_autograd"),
    "sequence_kernel": ("native_sequence__native",),
    "step_kernel": ("native",),
}
"""Settings that select an implementation, by the end of their names, and the values for which
nothing is compiled or downloaded from the hub. The last three are those of xLSTM."""


def check_description(checkpoint: Checkpoint) -> None:
    """Check that it is safe to let a library act on the configuration of a checkpoint.

    Raises:
        EvalError: there are more layers than tensors, or too many positions or classes, or an
            implementation is selected that is compiled or downloaded on first use.
    """
    source = checkpoint.source
    settings, file, tensors = _read(source)
    _check(settings, file, tensors)
    for folder in {source.tokenizer, checkpoint.tokenizer} - {None}:
        config = folder / CONFIG
        if config != file and config.is_file():  # AutoTokenizer reads it
            _check(json_object(config), config, tensors)


def _check(settings: Mapping[str, object], file: Path, tensors: int) -> None:
    """Raise an EvalError for an unsafe setting in ``file``.

    Args:
        settings: the content of the file.
        file: the file, for error messages.
        tensors: number of tensors of the model.
    """
    for key, value in _leaves(settings):
        if isinstance(value, int):
            _check_count(key, value, file, tensors)
        safe = _safe_values(key)
        for name in value.values() if isinstance(value, Mapping) else [value]:
            if safe and name is not None and name not in safe:
                raise EvalError(
                    f"{file}: {key} = {_short(name)} is refused as unsafe: it is compiled or "
                    f"downloaded on first use; remove it, or set it to one of {', '.join(safe)}"
                )


def _check_count(key: str, value: int, file: Path, tensors: int) -> None:
    """Raise an EvalError for a number of layers, positions or classes that is too large."""
    if _DEPTH.search(key) and value > max(tensors, SHARED_DEPTH):
        raise EvalError(
            f"{file}: {key} = {_short(value)}, but the weights consist of {tensors} tensors"
        )
    if _POSITIONS.search(key) and value > MOST_POSITIONS:
        raise EvalError(
            f"{file}: {key} = {_short(value)} is more than {MOST_POSITIONS:,} positions"
        )
    if key == "num_labels" and value > MOST_LABELS:
        raise EvalError(f"{file}: {key} = {_short(value)} is more than {MOST_LABELS:,} classes")


def _safe_values(key: str) -> tuple[str, ...]:
    """Return the safe values of a setting that selects an implementation, or an empty tuple."""
    safe = next((safe for end, safe in _IMPLEMENTATIONS.items() if key.endswith(end)), ())
    if any(name in _FLASH for name in safe) and find_spec("kernels") is not None:
        # With this package, transformers may download a kernel for flash attention.
        return tuple(name for name in safe if name not in _FLASH)
    return safe


def _read(checkpoint: Checkpoint) -> tuple[Mapping[str, object], Path, int]:
    """Return the configuration, the file that holds it, and the number of tensors."""
    if checkpoint.file:
        from gguf import GGUFReader

        file = checkpoint.path / checkpoint.file
        reader = GGUFReader(file)
        counts = {}
        for name, field in reader.fields.items():
            prefix, _, setting = name.rpartition(".")
            if setting in _IN_GGUF:
                counts[f"{prefix}_{_IN_GGUF[setting]}"] = field.contents()
        return counts, file, len(reader.tensors)
    from safetensors import safe_open

    tensors = 0
    for file in weight_files(checkpoint.path):
        with safe_open(file, "np") as stream:
            tensors += len(stream.keys())
    config = checkpoint.path / CONFIG
    return json_object(config), config, tensors


def _leaves(described: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the settings of a configuration and of the ones nested in it, by their own keys."""
    for key, value in described.items():
        parts = value if isinstance(value, list) else [value]
        inner = [part for part in parts if isinstance(part, Mapping)]
        if not inner or _safe_values(key):
            yield key, value
        else:
            for part in inner:
                yield from _leaves(part)


def _short(value: object) -> str:
    """Return a value for an error message, shortened."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return repr(value)[:60]
