"""A linear layer that is replaced by two smaller ones."""

from torch import Tensor, nn


class LowRank(nn.Module):
    """``y = B (A x) + bias`` with ``A`` ``(rank, in_features)`` and ``B`` ``(out_features, rank)``.

    Both factors are linear layers, so later steps of a recipe can compress them.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool):
        super().__init__()
        self.first = nn.Linear(in_features, rank, bias=False)
        self.second = nn.Linear(rank, out_features, bias=bias)

    @property
    def weight(self) -> Tensor:
        """The weight of ``second``, for code that reads a layer's dtype or device from it."""
        return self.second.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of ``second``, for code that initializes or reads a layer's bias."""
        return self.second.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs))
