"""Schemas of the arrays of stored measurements, one per task.

Other programs can write to the folder of a store. Its entries are checked against these schemas, so
that the code that reads them can rely on names, dtypes, shapes and ranges.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from compression_gates.evals.checkpoints.findings import CheckpointComparison
from compression_gates.evals.checkpoints.plain_use import PlainUse

ROUNDING = 1e-3
"""Tolerance for logarithms and probabilities."""
Shape = tuple[str | int, ...]


@dataclass(frozen=True)
class Array:
    """The schema of one array.

    Attributes:
        kind: numpy's code for the kind of its dtype: ``f``, ``i``, ``b`` or ``U``.
        shape: numbers, or names of lengths; a name stands for the same length in all arrays.
        low, high: range of its values. NaN is in every range, because a broken model computes it.
        is_finite: whether NaN and infinity are errors.
        indexes: name of the length below which all values must be, if they are indices.
        parse: raises a ValueError if the text in the array is invalid.
    """

    kind: str
    shape: Shape = ()
    low: float = -math.inf
    high: float = math.inf
    is_finite: bool = False
    indexes: str = ""
    parse: Callable[[str], object] | None = None


Schema = Mapping[str, Array]
_COUNT = Array("i", low=0)


_GENERATED: Schema = {
    "tokens": Array("i", ("items", "new"), low=-1),
    "continuations": Array("U", ("items",)),
    "ended": Array("b", ("items",)),
    "empty": Array("b", ("items",)),
}


def _seconds(name: str) -> Array:
    """Return the schema of times of baseline and candidate in pairs."""
    return Array("f", (name, 2), low=1e-9, is_finite=True)


SCHEMAS: Mapping[str, Schema] = {
    "text": {
        "tokens": Array("i", ("tokens",), low=0),
        "window": Array("i", ("tokens",), low=0, indexes="windows"),
        "cluster": Array("i", ("tokens",), low=0),
        "window_item": Array("i", ("windows",), low=0, indexes="items"),
        "window_text": Array("U", ("windows",)),
        "units": Array("i", (2,), low=0),
        "windowing": Array("i", (2,), low=1),
        "vocabulary": Array("i", low=1),
        "longest": Array("i", low=1),
        "nll": Array("f", ("tokens",), low=-ROUNDING),
    },
    "generation": {**_GENERATED, "finite": Array("b", ("items",))},
    "extraction": {
        "continuations": Array("U", ("items",)),
        "finite": Array("b", ("items",)),
        "log_probabilities": Array("f", ("ends", "width"), high=ROUNDING),
        "item": Array("i", ("ends",), low=0, indexes="items"),
    },
    "classes": {"log_probabilities": Array("f", ("items", "classes"), high=ROUNDING)},
    "continuation": {
        **_GENERATED,
        "choices": Array("i", ("items", "new"), low=-1),
        "chances": Array("f", ("items", "new"), low=0, high=1 + ROUNDING),
        "pieces": Array("U", ("items", "new")),
        "choice_pieces": Array("U", ("items", "new")),
        "context": Array("i", low=1),
        "finite": Array("b", ("items",)),
    },
    "speed": {"seconds": _seconds("pairs"), "single": _seconds("single")},
    "decode": {
        "seconds": _seconds("pairs"),
        "first": _seconds("pairs"),
        "batch": _seconds("batches"),
    },
    "memory": {"bytes": Array("i", (2,), low=0)},
    "engine": {"kernel": Array("U"), "reason": Array("U")},
    "attention": {"usual": Array("U"), "other": Array("U")},
    "footprint": {
        **dict.fromkeys(("parameters", "weights", "zeros", "layers"), _COUNT),
        **dict.fromkeys(("layers_2_4", "layers_4_8"), _COUNT),
        "weights_digest": Array("U"),
    },
    "vocabulary": {
        **dict.fromkeys(("used", "vocabulary", "longest"), _COUNT),
        "scripts": Array("U", parse=json.loads),
    },
    "treatments": {"treatments": Array("U", parse=json.loads)},
    "attribution": {"attribution": Array("U", parse=json.loads)},
    "plain use": {"use": Array("U", parse=PlainUse.from_json)},
    "compare": {"comparison": Array("U", parse=CheckpointComparison.from_json)},
}
"""The arrays of each task. Every array that a scorer returns must be listed here."""
BESIDE_BASELINE: Mapping[str, Schema] = {
    "text": {
        "js": Array("f", ("tokens",), low=0, high=math.log(2) + ROUNDING),
        "kl_forward": Array("f", ("tokens",), low=0),
        "kl_backward": Array("f", ("tokens",), low=0),
        "tv": Array("f", ("tokens",), low=0, high=1 + ROUNDING),
        "agree": Array("b", ("tokens",)),
    }
}
"""Additional arrays of a task if it was scored against a baseline."""
OPTIONAL: Schema = {
    "experts": Array("i", ("layers", "experts"), low=0),
    "near_ties": Array("b", ("items",)),
}
"""Additional arrays of tasks: of mixtures of experts, and of generation by a model that was run."""


def check(
    arrays: Mapping[str, np.ndarray], origin: Mapping[str, object], items: int | None = None
) -> None:
    """Check arrays against the schema of their task.

    Args:
        arrays: the arrays of a measurement.
        origin: the origin of the measurement, which names its task.
        items: number of items of the data set, if there is one.

    Raises:
        ValueError: names the first array that does not match the schema, and the mismatch.
    """
    task = origin["protocol"]["task"]
    schema = SCHEMAS[task] | (BESIDE_BASELINE.get(task, {}) if origin.get("reference") else {})
    schema |= {name: array for name, array in OPTIONAL.items() if name in arrays}
    for name in sorted(schema.keys() ^ arrays.keys()):
        raise ValueError(f"{name} is {'missing' if name in schema else 'unknown'}")
    lengths: dict[str | int, int] = {} if items is None else {"items": items}
    for name, expected in schema.items():
        _check_shape(name, np.asarray(arrays[name]), expected, lengths)
    for name, expected in schema.items():
        _check_values(name, np.asarray(arrays[name]), expected, lengths)


def _check_shape(
    name: str, array: np.ndarray, expected: Array, lengths: dict[str | int, int]
) -> None:
    if array.dtype.kind != expected.kind:
        raise ValueError(f"{name} has dtype {array.dtype}")
    shape = tuple(
        size if isinstance(size, int) else lengths.setdefault(size, length)
        for size, length in zip(expected.shape, array.shape, strict=False)
    )
    if array.ndim != len(expected.shape) or array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}")


def _check_values(
    name: str, array: np.ndarray, expected: Array, lengths: Mapping[str | int, int]
) -> None:
    if expected.parse is not None:
        expected.parse(str(array))
    if expected.kind not in "fi" or not array.size:
        return
    if expected.is_finite and not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    high = lengths.get(expected.indexes, math.inf) - 1 if expected.indexes else expected.high
    if (array < expected.low).any() or (array > high).any():
        raise ValueError(f"{name} holds values out of range")
