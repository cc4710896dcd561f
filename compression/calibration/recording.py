"""Record the input statistics of layers while a model runs on calibration batches."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.calibration.calls import Groups
from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.calibration.unrouted_experts import UnroutedExpert
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.capture import Batch, capture_inputs
from compression_gates.compression.model.layers import Layer


class _LastUse(Exception):  # noqa: N818 - control flow, not an error
    """Ends a forward pass at the last use of the recorded layers."""


@dataclass(frozen=True)
class Recorder:
    """Records the inputs of layers of a model.

    Attributes:
        model: in evaluation mode.
        layers: the layers of the model by name.
        batches: the calibration data.
        with_products: whether to accumulate the products of the inputs.
        with_magnitudes: whether to accumulate the absolute values of the inputs.
        offloaded_to: the device on which the layers run, if their weights are in host memory.
    """

    model: PreTrainedModel
    layers: Mapping[str, Layer]
    batches: Sequence[Batch]
    with_products: bool
    with_magnitudes: bool
    offloaded_to: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """The device on which the model runs, or begins if it is spread over several."""
        return self.offloaded_to or self.model.device

    def record(
        self, groups: Groups, forward: Callable[[int], object], uses: int | None = None
    ) -> dict[str, InputStatistics]:
        """Return the statistics of the layers of ``groups`` by name.

        Args:
            groups: layers with the same inputs, which share their statistics.
            forward: runs the model on the batch of the given index.
            uses: number of calls of the first layers of the groups after which a forward pass
                ends; None to leave its end to ``forward``.

        Raises:
            CompressionError: inputs are not finite.
        """
        moments = {group[0]: self.moments(group) for group in groups}
        number = calls = 0

        def add(name: str, inputs: Tensor) -> None:
            nonlocal calls
            self.add(moments[name], inputs, number)
            calls += 1
            if calls == uses:
                raise _LastUse

        with capture_inputs(self.model, {name: self.layers[name] for name in moments}, add):
            for number in range(len(self.batches)):
                calls = 0
                with suppress(_LastUse):
                    forward(number)
        return {
            name: result
            for group in groups
            for name, result in checked(group, moments[group[0]]).items()
        }

    def moments(self, group: Sequence[str]) -> InputStatistics:
        """Return empty statistics for the layers of a group."""
        first = self.layers[group[0]]
        device = self.offloaded_to or first.stored.device
        return InputStatistics(first.in_features, device, self.with_products, self.with_magnitudes)

    def add(self, moments: InputStatistics, inputs: Tensor, number: int) -> None:
        """Add the inputs of a layer in the batch of an index to its statistics."""
        moments.add(_tokens(inputs, self.batches[number].get("attention_mask")))


def checked(group: Sequence[str], moments: InputStatistics) -> dict[str, InputStatistics]:
    """Return the statistics of each layer of a group, with a warning for an unrouted expert.

    Inputs that are all zero, such as those after a layer of which everything is pruned, count as no
    tokens, because methods cannot use them either.

    Raises:
        CompressionError: inputs are not finite.
    """
    squares = moments.squares
    if not squares.isfinite().all():
        raise CompressionError(f"layer {group[0]}: its calibration inputs are not finite")
    if not moments.tokens:
        for name in group:
            warnings.warn(name, UnroutedExpert, stacklevel=3)
    elif not squares.any():
        moments.tokens = 0
    return dict.fromkeys(group, moments)


def _tokens(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``inputs`` as ``(tokens, features)`` without padding.

    Inputs whose shape differs from that of the mask, such as a pooler's, have no padding.
    """
    flat = inputs.flatten(0, -2)
    if mask is not None and inputs.shape[:-1] in (mask.shape, (mask.numel(),)):
        return flat[mask.flatten().bool()]
    return flat
