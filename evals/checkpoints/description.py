"""What must hold of the configuration of a checkpoint before a library follows it.

Only the headers of the weights and ``config.json`` are read here, never the weights.
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
"""Keys of a configuration that say how often a block is repeated, such as num_hidden_layers."""
SHARED_DEPTH = 256
"""Layers that a model may have without a tensor for each, as ALBERT, which shares its layers."""
_POSITIONS = re.compile(rf"(^|_)({'|'.join(POSITIONS)}|seq_len)$|positions?(_embeddings)?$")
"""Keys that count positions, of a part of a model too."""
MOST_LABELS = 1_000_000
"""Classes of a model at most; transformers makes a list of them at once."""
MOST_POSITIONS = 1 << 28
"""Positions beyond which a configuration cannot be meant; some models make a table of them."""
_FLASH = ("flash_attention_2", "flash_attention_3")
_IMPLEMENTATIONS = {
    "attn_implementation": ("eager", "sdpa", *_FLASH),
    "experts_implementation": ("eager", "batched_mm", "grouped_mm"),
    "chunkwise_kernel": ("chunkwise--native_autograd", "parallel--native_autograd"),
    "sequence_kernel": ("native_sequence__native",),
    "step_kernel": ("native",),
}
"""Settings that choose an implementation, by the end of their names, and the values with which
nothing is compiled, or fetched from the hub; the last three are xLSTM's."""


def check_description(checkpoint: Checkpoint) -> None:
    """Refuses a configuration that no library should follow, before one does.

    Raises:
        EvalError: more layers than the files have tensors, positions without measure, or an
            implementation that is compiled or fetched when it is first used.
    """
    if checkpoint.base is not None:
        check_description(checkpoint.base)
    described, where, tensors = _described(checkpoint.base or checkpoint)
    if checkpoint.base is None:
        _check(described, where, tensors)
    beside = checkpoint.tokenizer and checkpoint.tokenizer / CONFIG
    if beside and beside != where and beside.is_file():  # AutoTokenizer reads it
        _check(json_object(beside), beside, tensors)


def _check(described: Mapping[str, object], where: Path, tensors: int) -> None:
    """Raises an EvalError for a setting in the file ``where`` of a model of ``tensors``."""
    for key, value in _leaves(described):
        if isinstance(value, int):
            if _DEPTH.search(key) and value > max(tensors, SHARED_DEPTH):
                raise EvalError(
                    f"{where}: {key} = {_short(value)}, but the weights are {tensors} tensors"
                )
            if _POSITIONS.search(key) and value > MOST_POSITIONS:
                raise EvalError(f"{where}: {key} = {_short(value)} is no number of positions")
            if key == "num_labels" and value > MOST_LABELS:
                raise EvalError(f"{where}: {key} = {_short(value)} is no number of classes")
        safe = _safe_values(key)
        for name in value.values() if isinstance(value, Mapping) else [value]:
            if safe and name is not None and name not in safe:
                raise EvalError(
                    f"{where}: {key} = {_short(name)} is refused as unsafe: it is compiled or "
                    f"fetched when it is used; leave it out, or give one of {', '.join(safe)}"
                )


def _safe_values(key: str) -> tuple[str, ...]:
    """Values of a setting that chooses an implementation; nothing for any other setting."""
    safe = next((safe for end, safe in _IMPLEMENTATIONS.items() if key.endswith(end)), ())
    if any(name in _FLASH for name in safe) and find_spec("kernels") is not None:
        # transformers may fetch a kernel in place of a flash attention.
        return tuple(name for name in safe if name not in _FLASH)
    return safe


def _described(checkpoint: Checkpoint) -> tuple[Mapping[str, object], Path, int]:
    """Configuration, the file that it stands in, and the number of tensors."""
    if checkpoint.file:
        from gguf import GGUFReader

        file = checkpoint.path / checkpoint.file
        reader = GGUFReader(file)
        fields = reader.fields.items()
        counts = {name.replace(".", "_"): field.contents() for name, field in fields
                  if name.endswith((".block_count", ".context_length"))}  # fmt: skip
        counts = {name.replace("block_count", "blocks").replace("context_length", "n_ctx"): value
                  for name, value in counts.items()}  # fmt: skip
        return counts, file, len(reader.tensors)
    from safetensors import safe_open

    tensors = 0
    for file in weight_files(checkpoint.path):
        with safe_open(file, "np") as stream:
            tensors += len(stream.keys())
    config = checkpoint.path / CONFIG
    return json_object(config), config, tensors


def _leaves(described: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Every setting of a configuration and of those within it, by its own key."""
    for key, value in described.items():
        parts = value if isinstance(value, list) else [value]
        inner = [part for part in parts if isinstance(part, Mapping)]
        if not inner or _safe_values(key):
            yield key, value
        else:
            for part in inner:
                yield from _leaves(part)


def _short(value: object) -> str:
    """A value as it may stand in a line."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return repr(value)[:60]
