"""Variants: other ways to compute the same model, whose differences are numerical noise.

A model that is served is seldom computed exactly as it is here. The variants are what serving
usually changes:

- *batch size*: batches of another size have other padding, and their kernels sum in another order;
- *dtype*: a checkpoint in float32 is usually served in bfloat16, which has its range. One in 16
  bits is served as it is, so it is compared with float32, in which next to nothing is rounded;
- *attention*: engines use fused kernels, which ``sdpa`` has and ``eager`` has not.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.formats import PLAIN
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.cache import AS_USUAL, AUTO_DTYPE, Computed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compression_gates.evals.measuring import Measurer

BATCH, DTYPE, ATTENTION = "batch size", "dtype", "attention"
SOURCES = (BATCH, DTYPE, ATTENTION)
"""What a variant changes."""
NOISE_BATCH = 1000
"""Number of tokens of a batch when a baseline is compared with itself."""
OTHER_DTYPE = {"float32": "bfloat16", "bfloat16": "float32", "float16": "float32"}
OTHER_ATTENTION = {"eager": "sdpa", "sdpa": "eager"}
_KEYS = {BATCH: "batch_tokens", DTYPE: "computed_in", ATTENTION: "attention"}


@dataclass(frozen=True)
class Variant:
    """Another way to compute a model.

    Attributes:
        source: one of :data:`SOURCES`.
        value: the number of tokens of a batch, the dtype, or the attention implementation.
    """

    source: str
    value: str | int

    def origin(self) -> dict[str, object]:
        """Return its part of the origin of a measurement."""
        return {_KEYS[self.source]: self.value}

    @property
    def batch_tokens(self) -> int | None:
        """The number of tokens of a batch; None if it is not changed."""
        return int(self.value) if self.source == BATCH else None

    @property
    def computed(self) -> Computed:
        """How the loaded model is computed."""
        if self.source == BATCH:
            return AS_USUAL
        return Computed(**{"dtype" if self.source == DTYPE else "attention": str(self.value)})


def variant_of(measurer: "Measurer", checkpoint: Checkpoint, source: str) -> Variant:
    """Return the variant of a model for a source of noise.

    Raises:
        EvalError: the model has no other dtype or attention; the message is the reason.
    """
    if source == BATCH:
        return Variant(BATCH, NOISE_BATCH)
    if source == ATTENTION:
        return _attention(measurer, checkpoint)
    if checkpoint.form != PLAIN:
        raise EvalError(f"its weights are stored as {checkpoint.form}")
    dtype = measurer.models.dtype
    dtype = checkpoint.dtype if dtype == AUTO_DTYPE else dtype
    if dtype not in OTHER_DTYPE:
        raise EvalError(
            f"it is computed in {dtype}" if dtype else "its configuration names no dtype"
        )
    return Variant(DTYPE, OTHER_DTYPE[dtype])


def _attention(measurer: "Measurer", checkpoint: Checkpoint) -> Variant:
    def run() -> "Mapping[str, np.ndarray]":
        model = measurer.models.load(checkpoint).model
        usual = model.config._attn_implementation
        other = OTHER_ATTENTION.get(usual, "sdpa")
        try:
            model.set_attn_implementation(other)
        except (ValueError, ImportError):
            other = ""
        else:
            if model.config._attn_implementation != other:
                other = ""
        if other:
            model.set_attn_implementation(usual)
        return {"usual": np.array(str(usual)), "other": np.array(other)}

    origin = {**measurer.model_origin(checkpoint), "protocol": {"task": "attention"}}
    found = measurer.measure(checkpoint, origin, run)
    usual, other = str(found["usual"]), str(found["other"])
    if not other:
        raise EvalError(f"it has no other attention implementation than {usual}")
    return Variant(ATTENTION, other)
