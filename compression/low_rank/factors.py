"""A linear layer as two thin ones."""

from torch import Tensor, nn


class LowRank(nn.Module):
    """``y = B (A x) + bias`` with ``A`` ``(rank, in)`` and ``B`` ``(out, rank)``.

    Both factors are linear layers of their own, so that later steps of a recipe find them.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool):
        super().__init__()
        self.first = nn.Linear(in_features, rank, bias=False)
        self.second = nn.Linear(rank, out_features, bias=bias)

    @property
    def weight(self) -> Tensor:
        """For code that asks a layer for its dtype or device; not the product of the factors."""
        return self.second.weight

    @property
    def bias(self) -> Tensor | None:
        """For code that asks a layer for it, initialisations of transformers among it."""
        return self.second.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs))
