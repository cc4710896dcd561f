"""What a metric measured on each item, kept so that a later run can be compared item by item.

Values are kept as float32. Where a metric has many values in a document, such as one for each
token, the mean of each document is kept instead: documents are what intervals resample.
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
from compression_gates.evals.statistics.shares import clustered_proportion, clustered_share
from compression_gates.evals.store.measurement import key_of

if TYPE_CHECKING:
    from compression_gates.evals.metrics.reading import Scored

MEAN, SERIES, SHARE, PROPORTION = "mean", "series", "share", "proportion"
"""Kinds of values: any number; the same in consecutive windows of one document; a change in
[-1, 1] of which many are zero; 0 or 1."""
Key = tuple[str, str]
"""Candidate and metric."""
_INTERVALS: Mapping[str, Callable[..., Estimate]] = {
    MEAN: studentized_mean,
    SERIES: series_mean,
    SHARE: clustered_share,
    PROPORTION: clustered_proportion,
}
FILE = "items.npz"
"""Beside the report."""
_DAMAGED = (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError,
            RuntimeError, SyntaxError, TypeError, ValueError, BadZipFile, zlib.error)  # fmt: skip
"""What numpy and zipfile raise of a file that is damaged."""
_INDEX, _RUN = "index", "run"
_MOST_VALUES = 1 << 30
"""That the values of a file can be means of."""


@dataclass(frozen=True, eq=False)
class ItemValues:
    """The values of a metric by item, or by document, and what they were measured on.

    Attributes:
        kind: :data:`MEAN`, :data:`SERIES`, :data:`SHARE` or :data:`PROPORTION`.
        values: ``(units,)`` float32, the mean value of each item or document.
        sizes: ``(units,)``, how many values each of them is the mean of.
        documents: ``(units,)``, the document of each.
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
        """The values ``(n,)`` of items in ``documents`` ``(n,)``, measured beside ``baseline``."""
        values = np.asarray(values, dtype=np.float64)
        _, documents = np.unique(np.asarray(documents), return_inverse=True)
        sizes = np.ones(len(values), dtype=np.int32)
        if kind in (MEAN, SERIES):
            sizes = np.bincount(documents).astype(np.int32)
            values = np.bincount(documents, values) / sizes
            documents = np.arange(len(sizes))
        return cls(
            kind,
            values.astype(np.float32),
            sizes,
            documents.astype(np.int32),
            _origin_of(baseline),
        )

    @classmethod
    def of_tokens(cls, values: ArrayLike, baseline: "Scored") -> "ItemValues":
        """The values ``(n,)`` of the tokens that ``baseline`` predicted."""
        kind = SERIES if baseline.is_one_document else MEAN
        return cls.of(kind, values, baseline["cluster"], baseline)

    def same_items(self, other: "ItemValues") -> bool:
        """Whether both hold values of the same items of the same documents."""
        return (
            self.origin == other.origin
            and np.array_equal(self.sizes, other.sizes)
            and np.array_equal(self.documents, other.documents)
        )

    def to_text(self) -> str:
        """The values as ASCII text, to be sent to another process."""
        return base64.b64encode(pack({("", ""): self})).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> "ItemValues":
        """What :meth:`to_text` was called on."""
        return unpack(base64.b64decode(text), "a report of a case")[0]["", ""]

    def estimate(self) -> Estimate:
        """The mean, with the interval that its kind of values gets."""
        return _estimate(_INTERVALS[self.kind], self.values, self.sizes, self.documents)

    def rise_since(self, earlier: "ItemValues") -> Estimate:
        """How much the mean is above that of ``earlier``, paired by item.

        Raises:
            ValueError: the items are not the same.
        """
        if not self.same_items(earlier):
            raise ValueError("values of different items cannot be paired")
        rise = self.values.astype(np.float64) - earlier.values
        # The difference of two zero-one values is -1, 0 or 1.
        interval = _INTERVALS[SHARE if self.kind == PROPORTION else self.kind]
        return _estimate(interval, rise, self.sizes, self.documents)

    def flips_since(self, earlier: "ItemValues") -> tuple[int, int] | None:
        """How many items rose by 1 and how many fell by 1 since ``earlier``; None where items have
        other values, or share documents, so that they are not independent yes-or-no answers."""
        rise = self.values - earlier.values
        alone = len(np.unique(self.documents)) == len(rise)
        if self.kind in (MEAN, SERIES) or not alone or not np.isin(rise, (-1, 0, 1)).all():
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
    measured = baseline.measurement
    model = measured.origin.get("model")
    if model is None:  # logged elsewhere: two baselines are told apart by their scores
        model = key_of({name: array.tolist() for name, array in measured.arrays.items()})
    return {
        "baseline": str(model),
        "data": baseline.data.digest,
        "protocol": key_of({"protocol": measured.origin.get("protocol")}),
    }


def digest_of(report: bytes) -> str:
    """What ties the values of items to the report that they are of."""
    return hashlib.sha256(report).hexdigest()


def pack(found: Mapping[Key, ItemValues], run: str = "") -> bytes:
    """The values of a run's gates as an ``.npz`` file.

    Args:
        found: by candidate and metric.
        run: what the file belongs to, such as :func:`digest_of` the report beside it.
    """
    arrays: dict[str, np.ndarray] = {}
    index = []
    units: dict[bytes, int] = {}  # the same for every candidate, so kept once
    for number, (key, items) in enumerate(found.items()):
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
    """Raises a ValueError for arrays that no run has written."""
    values, sizes, documents = items.values, items.sizes, items.documents
    for array, dtype in ((values, np.float32), (sizes, np.int32), (documents, np.int32)):
        if array.dtype != dtype or array.ndim != 1 or len(array) != len(values):
            raise ValueError(f"{array.dtype} of shape {array.shape}")
    if not len(values) or sizes.min() < 1 or sizes.sum(dtype=np.int64) > _MOST_VALUES:
        raise ValueError("sizes")
    if documents.min() < 0 or items.kind not in _INTERVALS:
        raise ValueError(items.kind)
    low = {SHARE: -1, PROPORTION: 0}.get(items.kind, -np.inf)
    if (values < low).any() or (values > (np.inf if low == -np.inf else 1)).any():
        raise ValueError("values")


def unpack(content: bytes, name: str) -> tuple[dict[Key, ItemValues], str]:
    """What :func:`pack` was given.

    Raises:
        EvalError: the content is damaged; ``name`` says of which file it is.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            found = {}
            for number, row in enumerate(json.loads(str(stored[_INDEX]))):
                sizes, documents = stored[f"units-{row['units']}"]
                origin = {str(part): str(digest) for part, digest in row["origin"].items()}
                items = ItemValues(
                    row["kind"], stored[f"values-{number}"], sizes, documents, origin
                )
                _check(items)
                candidate, metric = row["key"]
                found[candidate, metric] = items
            return found, str(stored[_RUN])
    except _DAMAGED as error:
        raise EvalError(f"{name} is damaged; delete it to compare without it") from error
