"""Statistics of a layer's inputs, accumulated batch by batch."""

from functools import cached_property

import torch
from torch import Tensor

from compression_gates.compression.calibration.hessian import decreasing_diagonal, inverse_factor

CHUNK = {"cpu": 2**19, "cuda": 2**24}
"""Number of inputs converted to float32 at once; on a CPU they then remain in its cache."""
STRIPES = 4
"""Number of stripes in which the upper triangle of the products is computed."""
NARROWEST = 128
"""Least number of columns of a stripe."""


class InputStatistics:
    """Moments of a layer's inputs over all tokens.

    Sums over the tokens of a batch are computed in float32, and those over batches in float64,
    except for the products, whose sums are all in float32.

    Attributes:
        tokens: number of tokens.
        absolutes: ``(features,)`` sum of absolute values, in float64, or None if not requested.
        largest: ``(features,)`` largest absolute value, or None if not requested.
    """

    def __init__(
        self,
        features: int,
        device: torch.device,
        with_products: bool,
        with_magnitudes: bool = False,
    ):
        self.tokens = 0
        self.absolutes = self.largest = self._squares = self._upper = None
        if with_magnitudes:
            self.absolutes = torch.zeros(features, dtype=torch.float64, device=device)
            self.largest = torch.zeros(features, device=device)
        if with_products:
            self._upper = torch.zeros(features, features, device=device)
        else:
            self._squares = torch.zeros(features, dtype=torch.float64, device=device)
        self._factors: dict[tuple[float, bool], Tensor] = {}

    def add(self, inputs: Tensor) -> None:
        """Add inputs ``(tokens, features)``."""
        tokens, features = inputs.shape
        if not tokens:
            return
        self.tokens += tokens
        if self._upper is not None:
            _add_products(self._upper, inputs)
        if self._squares is None and self.absolutes is None:
            return
        chunk = max(CHUNK.get(inputs.device.type, CHUNK["cuda"]) // features, 1)
        for part in inputs.split(chunk):
            values = part.float()
            if self._squares is not None:
                self._squares += values.square().sum(dim=0)
            if self.absolutes is not None:
                magnitudes = values.abs()
                self.absolutes += magnitudes.sum(dim=0)
                self.largest = torch.maximum(self.largest, magnitudes.amax(dim=0))

    @property
    def squares(self) -> Tensor:
        """``(features,)`` sum of squares, in float64."""
        return self._upper.diagonal().double() if self._squares is None else self._squares

    @property
    def products(self) -> Tensor | None:
        """``(features, features)`` sum of outer products, or None if not requested."""
        if self._upper is None:
            return None
        return self._upper.triu_().add_(self._upper.triu(1).T)

    @property
    def norm(self) -> Tensor:
        """``||X_j||_2`` ``(features,)``, over all tokens."""
        return self.squares.sqrt()

    @property
    def mean_magnitude(self) -> Tensor:
        """Mean of ``|X_j|`` ``(features,)``, over all tokens."""
        return (self.absolutes / max(self.tokens, 1)).float()

    @cached_property
    def hessian(self) -> Tensor:
        """``2 X X^T / tokens`` ``(features, features)``; no inputs can be added afterwards."""
        return self.products * (2.0 / max(self.tokens, 1))

    def inverse_factor(self, damping: float, by_diagonal: bool = False) -> Tensor:
        """Return :func:`inverse_factor` of the Hessian, computed once for all layers that share it.

        Args:
            damping: added to the diagonal of the Hessian, as a fraction of its mean.
            by_diagonal: whether the features are in the order of decreasing ``H_jj``.

        Raises:
            CompressionError: as :func:`inverse_factor`.
        """
        key = damping, by_diagonal
        if key not in self._factors:
            hessian = self.hessian
            if by_diagonal:
                order = decreasing_diagonal(hessian)
                hessian = hessian[order][:, order]
            self._factors[key] = inverse_factor(hessian, damping)
        return self._factors[key]


def _add_products(upper: Tensor, inputs: Tensor) -> None:
    """Add ``inputs^T inputs`` to the upper triangle of ``upper``, from stripes of its rows.

    Products of bfloat16 and float16 are exact in float32. They are accumulated without converting
    the inputs where the device supports that.
    """
    features = len(upper)
    half = inputs.dtype in (torch.bfloat16, torch.float16)
    mixed = half and inputs.is_cuda and torch.version.hip is None
    if not mixed:
        inputs = inputs.float()
    width = max(-(-features // STRIPES), NARROWEST)
    for start in range(0, features, width):
        rows, stripe = inputs[:, start : start + width].T, upper[start : start + width, start:]
        if mixed:
            stripe += torch.mm(rows, inputs[:, start:], out_dtype=torch.float32)
        else:
            stripe.addmm_(rows, inputs[:, start:])
