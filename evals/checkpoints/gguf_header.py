"""The header of a GGUF file, beside the baseline's files and beside what transformers loads of it.

llama.cpp takes everything but the weights from the header, and none of it shows in a score that
transformers computed: its loader reads some of the keys, and drops the others in silence.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.errors import EvalError, kind_and_line
from compression_gates.evals.foreign_text import on_one_line

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

_FLOATS = ("BF16", "F16", "F32", "F64")
_MODEL = "model"


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of its model.

    Attributes:
        file: its path.
        fields: every key with its value, arrays as lists.
        types: names of the tensors' quantization types, by tensor.
        factors: tensors by which the frequencies of a rotary embedding are divided.
    """

    file: Path
    fields: Mapping[str, object]
    types: Mapping[str, str]
    factors: Mapping[str, np.ndarray]

    @property
    def name(self) -> str:
        """The file's, for messages."""
        return on_one_line(self.file.name)

    @cached_property
    def architecture(self) -> str:
        return str(self.fields.get("general.architecture", ""))

    def get(self, key: str) -> object:
        """The value of a key of the architecture; None where the header has none."""
        return self.fields.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> float | None:
        """As :meth:`get`, of a key that is a number.

        Raises:
            EvalError: it is none.
        """
        value = self.get(key)
        if value is not None and not isinstance(value, int | float):
            raise EvalError(f"{self.file}: {self.architecture}.{key} = {value!r:.60} is no number")
        return value

    def token(self, key: str) -> object:
        """The value of a key of the tokenizer."""
        return self.fields.get(f"tokenizer.ggml.{key}")

    @property
    def tokens(self) -> list[str]:
        """The tokens by their ids; empty where the file has no tokenizer."""
        found = self.token("tokens")
        return found if isinstance(found, list) else []

    @property
    def quantization(self) -> str:
        """How many tensors are stored in which type, such as ``Q4_K 12, Q6_K 3, F32 9``."""
        counts = Counter(self.types.values())
        order = sorted(counts, key=lambda name: (name in _FLOATS, -counts[name], name))
        return ", ".join(f"{name} {counts[name]}" for name in order)


def read_header(file: Path) -> Header:
    """The header of a GGUF file.

    Raises:
        EvalError: it cannot be read, is one part of several, or holds no model.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        factors = {
            tensor.name.removesuffix(".weight"): np.array(tensor.data, np.float64)
            for tensor in reader.tensors
            if tensor.name.startswith(("rope_freqs", "rope_factors")) and tensor.data.ndim == 1
        }
    except Exception as error:  # whatever its parts are read as
        raise EvalError(f"{file} does not load: {kind_and_line(error)}") from error
    parts = fields.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise EvalError(
            f"{file}: split.count = {parts}, and only this part would be loaded; merge the parts "
            "with llama-gguf-split --merge"
        )
    kind = fields.get("general.type", _MODEL)
    if kind != _MODEL:
        raise EvalError(f"{file}: general.type = {kind!r:.60}; name a file that holds a model")
    return Header(file, fields, types, factors)


def compare(sides: "Sides") -> CheckpointComparison:
    """Holds the header of a candidate's GGUF file beside its baseline, and beside what is loaded.

    Raises:
        EvalError: the header or a configuration cannot be read.
    """
    from compression_gates.evals.checkpoints import gguf_loading, gguf_settings, gguf_tokenizer

    if not sides.candidate.file:
        return CheckpointComparison()
    header = _header_of(sides.candidate)
    told = Finding("quantization types", f"quantization types: {header.quantization}")
    try:
        parts = [
            gguf_settings.compare(sides, header),
            gguf_loading.compare(sides, header),
            gguf_tokenizer.compare(sides, header),
        ]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Keys may hold anything.
        reason = kind_and_line(error)
        raise EvalError(f"{header.file}: the header cannot be compared ({reason})") from error
    return CheckpointComparison.joined(
        [*parts, CheckpointComparison((told,), ("quantization types",))]
    )


def _header_of(checkpoint: Checkpoint) -> Header:
    return read_header(checkpoint.path / checkpoint.file)
