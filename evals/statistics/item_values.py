"""Per-item values of a metric, stored so that a later run can be compared item by item.

Values are stored as float32. If a metric has many values per document, such as one per token, only
the mean of each document is stored, because documents are the unit of sampling.
"""

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.errors import EvalError
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.means import series_mean, studentized_mean
from compression_gates.evals.statistics.proportions import (
    clustered_proportion,
    clustered_score_change,
)
from compression_gates.evals.store.measurement import key_of

if TYPE_CHECKING:
    from compression_gates.evals.metrics.result import Scored

MEAN, SERIES, SCORE_CHANGE, PROPORTION = "mean", "series", "share", "proportion"
"""Kinds of values, as they are stored: any numbers; any numbers in consecutive windows of one
document; changes of scores in [-1, 1], many of which are zero; zeros and ones."""
Key = tuple[str, str]
"""Candidate and metric."""
INTERVALS: Mapping[str, Callable[..., Estimate]] = {
    MEAN: studentized_mean,
    SERIES: series_mean,
    SCORE_CHANGE: clustered_score_change,
    PROPORTION: clustered_proportion,
}
FILE = "items.npz"
"""Name of the file, in the folder of the report."""
_READ_ERRORS = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, BadZipFile, zlib.error,
)  # fmt: skip
"""Exceptions that numpy and zipfile raise for a damaged file."""
_INDEX, _RUN = "index", "run"
_MAX_VALUES = 1 << 30
"""Largest total number of values that the means in a file may stand for."""


@dataclass(frozen=True, eq=False)
class ItemValues:
    """The values of a metric by item or by document, and digests of what they were measured on.

    Attributes:
        kind: :data:`MEAN`, :data:`SERIES`, :data:`SCORE_CHANGE` or :data:`PROPORTION`.
        values: ``(units,)`` float32, the mean value of each item or document.
        sizes: ``(units,)`` int32, the number of values in each mean.
        documents: ``(units,)`` int32, the document of each item.
        origin: digests of the ``baseline``, the ``data`` and the ``protocol``.
    """

    kind: str
    values: np.ndarray
    sizes: np.ndarray
    documents: np.ndarray
    origin: Mapping[str, str]

    @classmethod
    def of(
        cls, kind: str, values: ArrayLike, documents: ArrayLike, baseline: "Scored"
    ) -> "ItemValues":
        """Return ``values`` ``(n,)`` of items in ``documents`` ``(n,)``, compared with
        ``baseline``."""
        values = np.asarray(values, dtype=np.float64)
        _, documents = np.unique(np.asarray(documents), return_inverse=True)
        sizes = np.ones(len(values), dtype=np.int32)
        if kind in (MEAN, SERIES):
            sizes = np.bincount(documents).astype(np.int32)
            values = np.bincount(documents, values) / sizes
            documents = np.arange(len(sizes))
        origin = _origin_of(baseline)
        return cls(kind, values.astype(np.float32), sizes, documents.astype(np.int32), origin)

    @classmethod
    def of_tokens(cls, values: ArrayLike, baseline: "Scored") -> "ItemValues":
        """Return ``values`` ``(n,)`` of the tokens that ``baseline`` predicted."""
        kind = SERIES if baseline.is_one_document else MEAN
        return cls.of(kind, values, baseline["cluster"], baseline)

    def same_items(self, other: "ItemValues") -> bool:
        """Return whether both hold values of the same items in the same documents."""
        return (
            self.origin == other.origin
            and np.array_equal(self.sizes, other.sizes)
            and np.array_equal(self.documents, other.documents)
        )

    def to_text(self) -> str:
        """Return the values as ASCII text, for transfer to another process."""
        return base64.b64encode(pack({("", ""): self})).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> "ItemValues":
        """Return the values that :meth:`to_text` encoded."""
        return unpack(base64.b64decode(text), "a report of a case")[0]["", ""]

    def estimate(self) -> Estimate:
        """Return the mean with the interval for its kind of values."""
        return _estimate(INTERVALS[self.kind], self.values, self.sizes, self.documents)

    def rise_since(self, earlier: "ItemValues") -> Estimate:
        """Return the rise of the mean since ``earlier``, paired by item.

        Raises:
            ValueError: the items are not the same.
        """
        if not self.same_items(earlier):
            raise ValueError("values of different items cannot be paired")
        rise = self.values.astype(np.float64) - earlier.values
        # The difference of two zero-one values is -1, 0 or 1.
        interval = INTERVALS[SCORE_CHANGE if self.kind == PROPORTION else self.kind]
        return _estimate(interval, rise, self.sizes, self.documents)

    def flips_since(self, earlier: "ItemValues") -> tuple[int, int] | None:
        """Return how many items rose by 1 and how many fell by 1 since ``earlier``.

        Returns:
            None if items changed by other amounts, or if several share a document and are therefore
            not independent.
        """
        rise = self.values - earlier.values
        is_independent = len(np.unique(self.documents)) == len(rise)
        if self.kind in (MEAN, SERIES) or not is_independent or not np.isin(rise, (-1, 0, 1)).all():
            return None
        return int((rise > 0).sum()), int((rise < 0).sum())


def _estimate(
    interval: Callable[..., Estimate], values: np.ndarray, sizes: np.ndarray, documents: np.ndarray
) -> Estimate:
    values = values.astype(np.float64)
    if (sizes != 1).any():
        values, documents = np.repeat(values, sizes), np.repeat(documents, sizes)
    return interval(values, documents)


def _origin_of(baseline: "Scored") -> dict[str, str]:
    measurement = baseline.measurement
    model = measurement.origin.get("model")
    if model is None:  # from a log, which has no digest of the model
        model = key_of({name: array.tolist() for name, array in measurement.arrays.items()})
    return {
        "baseline": str(model),
        "data": baseline.data.digest,
        "protocol": key_of({"protocol": measurement.origin.get("protocol")}),
    }


def digest_of(report: bytes) -> str:
    """Return the digest that ties a file of item values to its report."""
    return hashlib.sha256(report).hexdigest()


def pack(values: Mapping[Key, ItemValues], run: str = "") -> bytes:
    """Return the item values of a run as the content of an ``.npz`` file.

    Args:
        values: by candidate and metric.
        run: identifies the run, such as :func:`digest_of` its report.
    """
    arrays: dict[str, np.ndarray] = {}
    index = []
    units: dict[bytes, int] = {}  # the same for every candidate, so stored once
    for number, (key, items) in enumerate(values.items()):
        layout = np.stack([items.sizes, items.documents])
        place = units.setdefault(layout.tobytes(), len(units))
        arrays[f"units-{place}"] = layout
        arrays[f"values-{number}"] = items.values
        index.append(
            {"key": list(key), "kind": items.kind, "units": place, "origin": dict(items.origin)}
        )
    stream = io.BytesIO()
    header = {_INDEX: np.array(json.dumps(index)), _RUN: np.array(run)}
    np.savez_compressed(stream, **header, **arrays)
    return stream.getvalue()


def _check(items: ItemValues) -> None:
    """Raise a ValueError for arrays that no run can have written."""
    values, sizes, documents = items.values, items.sizes, items.documents
    for array, dtype in ((values, np.float32), (sizes, np.int32), (documents, np.int32)):
        if array.dtype != dtype or array.ndim != 1 or len(array) != len(values):
            raise ValueError(f"{array.dtype} of shape {array.shape}")
    if not len(values) or sizes.min() < 1 or sizes.sum(dtype=np.int64) > _MAX_VALUES:
        raise ValueError("sizes")
    if documents.min() < 0 or items.kind not in INTERVALS:
        raise ValueError(items.kind)
    low = {SCORE_CHANGE: -1, PROPORTION: 0}.get(items.kind, -np.inf)
    if (values < low).any() or (values > (np.inf if low == -np.inf else 1)).any():
        raise ValueError("values")


def unpack(content: bytes, name: str) -> tuple[dict[Key, ItemValues], str]:
    """Return the values and the run that were passed to :func:`pack`.

    Args:
        content: of the file.
        name: of the file, for the error message.

    Raises:
        EvalError: the content is damaged.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            values = {}
            for number, row in enumerate(json.loads(str(stored[_INDEX]))):
                sizes, documents = stored[f"units-{row['units']}"]
                origin = {str(part): str(digest) for part, digest in row["origin"].items()}
                items = ItemValues(
                    row["kind"], stored[f"values-{number}"], sizes, documents, origin
                )
                _check(items)
                candidate, metric = row["key"]
                values[candidate, metric] = items
            return values, str(stored[_RUN])
    except _READ_ERRORS as error:
        raise EvalError(f"{name} is damaged; delete it to compare without it") from error
