"""What must hold of the configuration of a checkpoint before a library follows it.

Only the headers of the weights and ``config.json`` are read here, never the weights.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.files import CONFIG, json_object, weight_files
from compression_gates.evals.errors import EvalError

_DEPTH = re.compile(r"(?:^|_)(?:layers?|blocks?)$")
"""Keys of a configuration that say how often a block is repeated, such as num_hidden_layers."""
SHARED_DEPTH = 256
"""Layers that a model may have without a tensor for each, as ALBERT, which shares its layers."""
_POSITIONS = re.compile(r"positions?(_embeddings)?$|(^|_)(n_ctx|seq_len(gth)?)$")
MOST_LABELS = 1_000_000
"""Classes of a model at most; transformers makes a list of them at once."""
MOST_POSITIONS = 1 << 28
"""Positions beyond which a configuration cannot be meant; some models make a table of them."""
_IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3")
"""Of attention: those that neither compile code nor fetch it from the hub."""


def check_description(checkpoint: Checkpoint) -> None:
    """Refuses a configuration that no library should follow, before one does.

    Raises:
        EvalError: more layers than the files have tensors, positions without measure, or an
            implementation of attention that is compiled or fetched when it is first used.
    """
    if checkpoint.base is not None:
        check_description(checkpoint.base)
        return
    described, where, tensors = _described(checkpoint)
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
        if key.endswith("attn_implementation"):
            for name in value.values() if isinstance(value, Mapping) else [value]:
                if name is not None and name not in _IMPLEMENTATIONS:
                    raise EvalError(
                        f"{where}: {key} = {_short(name)} is compiled or fetched when it is used; "
                        f"leave it out, or give one of {', '.join(_IMPLEMENTATIONS)}"
                    )


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
        if isinstance(value, Mapping) and not key.endswith("attn_implementation"):
            yield from _leaves(value)
        else:
            yield key, value


def _short(value: object) -> str:
    """A value as it may stand in a line."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return repr(value)[:60]
