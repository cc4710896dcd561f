"""Statistics of a layer's inputs, accumulated batch by batch."""

import torch
from torch import Tensor


class InputStatistics:
    """Moments of a layer's inputs over all tokens, accumulated in float32 or float64.

    Attributes:
        tokens: number of tokens.
        squares: ``(features,)`` sum of squares, in float64.
        absolutes: ``(features,)`` sum of absolute values, in float64, or None if not requested.
        largest: ``(features,)`` largest absolute value, or None if not requested.
        products: ``(features, features)`` sum of outer products, or None if not requested.
    """

    def __init__(
        self,
        features: int,
        device: torch.device,
        with_products: bool,
        with_magnitudes: bool = False,
    ):
        self.tokens = 0
        self.squares = torch.zeros(features, dtype=torch.float64, device=device)
        self.absolutes = self.largest = self.products = None
        if with_magnitudes:
            self.absolutes = torch.zeros_like(self.squares)
            self.largest = torch.zeros(features, device=device)
        if with_products:
            self.products = torch.zeros(features, features, device=device)

    def add(self, inputs: Tensor) -> None:
        """Add inputs ``(tokens, features)``."""
        if not len(inputs):
            return
        inputs = inputs.float()
        self.tokens += inputs.shape[0]
        self.squares += inputs.double().square_().sum(dim=0)
        if self.absolutes is not None:
            magnitudes = inputs.abs()
            self.absolutes += magnitudes.double().sum(dim=0)
            self.largest = torch.maximum(self.largest, magnitudes.amax(dim=0))
        if self.products is not None:
            self.products += inputs.T @ inputs

    @property
    def norm(self) -> Tensor:
        """``||X_j||_2`` ``(features,)``, over all tokens."""
        return self.squares.sqrt()

    @property
    def mean_magnitude(self) -> Tensor:
        """Mean of ``|X_j|`` ``(features,)``, over all tokens."""
        return (self.absolutes / max(self.tokens, 1)).float()

    @property
    def hessian(self) -> Tensor:
        """``2 X X^T / tokens`` ``(features, features)``."""
        return self.products * (2.0 / max(self.tokens, 1))
