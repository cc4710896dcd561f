"""The header of a GGUF file and its comparison with the baseline and with the loaded model.

llama.cpp reads everything except the weights from the header. Scores do not cover this, because
they are computed by transformers, whose loader silently ignores many keys.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.errors import EvalError, kind_and_line
from compression_gates.evals.foreign_text import on_one_line

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

_FLOATS = ("BF16", "F16", "F32", "F64")
_MODEL = "model"
REMEDY = (
    "so the judged model would differ from the file; convert the file to safetensors, or judge it "
    "with llama.cpp"
)
"""The end of messages about parts of a file that transformers does not load."""


@dataclass(frozen=True)
class Header:
    """The metadata of a GGUF file.

    Attributes:
        file: path of the file.
        fields: all keys and values, with arrays as lists.
        types: quantization type of each tensor by its name.
        factors: tensors that divide the frequencies of the rotary embedding.
    """

    file: Path
    fields: Mapping[str, object]
    types: Mapping[str, str]
    factors: Mapping[str, np.ndarray]

    @property
    def name(self) -> str:
        """The name of the file, for messages."""
        return on_one_line(self.file.name)

    @cached_property
    def architecture(self) -> str:
        return str(self.fields.get("general.architecture", ""))

    def get(self, key: str) -> object:
        """Return the value of a key of the architecture, or None."""
        return self.fields.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> float | None:
        """Return the value of a numeric key of the architecture, or None.

        Raises:
            EvalError: the value is not a number.
        """
        value = self.get(key)
        if value is not None and not isinstance(value, int | float):
            name = f"{self.architecture}.{key}"
            raise EvalError(f"{self.file}: {name} = {value!r:.60} is not a number")
        return value

    def token(self, key: str) -> object:
        """Return the value of a key of the tokenizer, or None."""
        return self.fields.get(f"tokenizer.ggml.{key}")

    @property
    def tokens(self) -> list[str]:
        """The tokens in the order of their ids; empty if the file has no tokenizer."""
        tokens = self.token("tokens")
        return tokens if isinstance(tokens, list) else []

    @property
    def quantization(self) -> str:
        """The number of tensors of each type, such as ``Q4_K 12, Q6_K 3, F32 9``."""
        counts = Counter(self.types.values())
        order = sorted(counts, key=lambda name: (name in _FLOATS, -counts[name], name))
        return ", ".join(f"{name} {counts[name]}" for name in order)


def read_header(file: Path) -> Header:
    """Read the header of a GGUF file.

    Raises:
        EvalError: the file cannot be read, is one of several parts, or contains no model.
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
    except Exception as error:  # malformed files raise errors of many types
        raise EvalError(f"{file} does not load: {kind_and_line(error)}") from error
    parts = fields.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise EvalError(
            f"{file}: the model is split into {parts} files, and only this part would be loaded; "
            "merge the parts with llama-gguf-split --merge"
        )
    kind = fields.get("general.type", _MODEL)
    if kind != _MODEL:
        raise EvalError(f"{file}: general.type = {kind!r:.60}; give a file that contains a model")
    return Header(file, fields, types, factors)


def compare(sides: "Sides") -> CheckpointComparison:
    """Compare the header of a candidate's GGUF file with the baseline and with the loaded model.

    Raises:
        EvalError: the header or a configuration cannot be read.
    """
    from compression_gates.evals.checkpoints import gguf_loading, gguf_settings, gguf_tokenizer

    if not sides.candidate.file:
        return CheckpointComparison()
    header = read_header(sides.candidate.path / sides.candidate.file)
    types = Finding("quantization types", f"quantization types: {header.quantization}")
    try:
        parts = [
            gguf_settings.compare(sides, header),
            gguf_loading.compare(sides, header),
            gguf_tokenizer.compare(sides, header),
        ]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # The value of a key can have any type.
        reason = kind_and_line(error)
        raise EvalError(f"{header.file}: the header cannot be compared ({reason})") from error
    return CheckpointComparison.joined(
        [*parts, CheckpointComparison((types,), ("quantization types",))]
    )
