"""What the arrays of a stored measurement must look like, task by task.

A store is a folder that others can write to. Its entries are checked against this table, so that
the code behind it can rely on names, dtypes, shapes and ranges.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from compression_gates.evals.checkpoints.findings import CheckpointComparison
from compression_gates.evals.checkpoints.plain_use import PlainUse

ROUNDING = 1e-3
"""By which a logarithm or a probability may be off."""
Shape = tuple[str | int, ...]


@dataclass(frozen=True)
class Array:
    """An array of a measurement.

    Attributes:
        kind: of its dtype, as numpy abbreviates it: ``f``, ``i``, ``b`` or ``U``.
        shape: numbers, or names of lengths that are equal wherever they occur.
        low, high: of its values; NaN, which a broken model computes, is in every range.
        is_finite: whether NaN and infinity are impossible.
        indexes: the length that its values count up to, if any.
        parse: raises a ValueError of a text that is not what it should be.
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
    "generation": {"continuations": Array("U", ("items",)), "finite": Array("b", ("items",))},
    "extraction": {
        "continuations": Array("U", ("items",)),
        "finite": Array("b", ("items",)),
        "log_probabilities": Array("f", ("ends", "width"), high=ROUNDING),
        "item": Array("i", ("ends",), low=0, indexes="items"),
    },
    "classes": {"log_probabilities": Array("f", ("items", "classes"), high=ROUNDING)},
    "continuation": {
        "tokens": Array("i", ("items", "new"), low=-1),
        "continuations": Array("U", ("items",)),
        "choices": Array("i", ("items", "new"), low=-1),
        "chances": Array("f", ("items", "new"), low=0, high=1 + ROUNDING),
        "pieces": Array("U", ("items", "new")),
        "choice_pieces": Array("U", ("items", "new")),
        "context": Array("i", low=1),
        "finite": Array("b", ("items",)),
    },
    "speed": {"seconds": Array("f", ("pairs", 2), low=1e-9, is_finite=True)},
    "footprint": {
        **dict.fromkeys(("parameters", "weights", "zeros", "layers"), _COUNT),
        **dict.fromkeys(("layers_2_4", "layers_4_8"), _COUNT),
        "simulated": Array("U"),
        "weights_digest": Array("U"),
    },
    "vocabulary": {
        **dict.fromkeys(("used", "vocabulary", "longest"), _COUNT),
        "scripts": Array("U", parse=json.loads),
    },
    "plain use": {"use": Array("U", parse=PlainUse.from_json)},
    "compare": {"comparison": Array("U", parse=CheckpointComparison.from_json)},
}
"""The arrays of each task. A scorer that gives another array adds it here."""
BESIDE_BASELINE: Mapping[str, Schema] = {
    "text": {
        "js": Array("f", ("tokens",), low=0, high=math.log(2) + ROUNDING),
        "kl_forward": Array("f", ("tokens",), low=0),
        "kl_backward": Array("f", ("tokens",), low=0),
        "agree": Array("b", ("tokens",)),
    }
}
"""Further arrays of a task where a baseline was given."""
OF_MIXTURES: Schema = {"experts": Array("i", ("layers", "experts"), low=0)}
"""Further arrays of a task where the model is a mixture of experts."""


def check(
    arrays: Mapping[str, np.ndarray], origin: Mapping[str, object], items: int | None = None
) -> None:
    """Holds arrays against the schema of their task.

    Args:
        arrays: of a measurement.
        origin: of the measurement, which names its task.
        items: of the data set, where there is one.

    Raises:
        ValueError: names the first array that differs, and how.
    """
    task = origin["protocol"]["task"]
    schema = SCHEMAS[task] | (BESIDE_BASELINE.get(task, {}) if origin.get("reference") else {})
    schema |= {name: array for name, array in OF_MIXTURES.items() if name in arrays}
    for name in sorted(schema.keys() ^ arrays.keys()):
        raise ValueError(f"{name} is {'missing' if name in schema else 'not known'}")
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
    wanted = [
        size if isinstance(size, int) else lengths.setdefault(size, own)
        for size, own in zip(expected.shape, array.shape, strict=False)
    ]
    if array.ndim != len(expected.shape) or list(array.shape) != wanted:
        raise ValueError(f"{name} has shape {array.shape}")


def _check_values(
    name: str, array: np.ndarray, expected: Array, lengths: Mapping[str | int, int]
) -> None:
    if expected.parse is not None:
        expected.parse(str(array))
    if expected.kind not in "fi" or not array.size:
        return
    if expected.is_finite and not np.isfinite(array).all():
        raise ValueError(f"{name} holds what is not finite")
    high = lengths.get(expected.indexes, math.inf) - 1 if expected.indexes else expected.high
    if (array < expected.low).any() or (array > high).any():
        raise ValueError(f"{name} holds what is out of range")
