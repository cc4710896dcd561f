"""Record the input statistics of layers while a model runs on calibration batches."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.calibration.unrouted_experts import UnroutedExpert
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.capture import Batch, capture_inputs
from compression_gates.compression.model.layers import Layer


class _LastUse(Exception):  # noqa: N818 - control flow, not an error
    """Ends a forward pass at the last use of the recorded layers."""


def record_statistics(
    model: PreTrainedModel,
    leaders: Mapping[str, str],
    batches: Sequence[Batch],
    layers: Mapping[str, Layer],
    forward: Callable[[int], object],
    with_products: bool,
    with_magnitudes: bool = False,
    uses: int | None = None,
) -> dict[str, InputStatistics]:
    """Return the statistics of the inputs of layers by name, in the order of ``layers``.

    Args:
        model: in evaluation mode.
        leaders: for each layer the first layer of the model with the same inputs. Layers with the
            same leader share their statistics.
        batches: the calibration data.
        layers: the layers to record.
        forward: runs the layers on the batch of the given index.
        with_products: whether to accumulate the products of the inputs.
        with_magnitudes: whether to accumulate the absolute values of the inputs.
        uses: number of calls of the layers after which a forward pass ends; None to leave its end
            to ``forward``.

    Raises:
        CompressionError: inputs are not finite.
    """
    statistics: dict[str, InputStatistics] = {}
    recorded: dict[str, str] = {}
    """For each leader, the layer whose inputs are recorded."""
    for name, layer in layers.items():
        first = recorded.setdefault(leaders.get(name, name), name)
        statistics[name] = statistics.get(first) or InputStatistics(
            layer.in_features, layer.stored.device, with_products, with_magnitudes
        )
    mask, calls = None, 0

    def record(name: str, inputs: Tensor) -> None:
        nonlocal calls
        if recorded[leaders.get(name, name)] == name:
            statistics[name].add(_tokens(inputs, mask))
        calls += 1
        if calls == uses:
            raise _LastUse

    with capture_inputs(model, layers, record):
        for number, batch in enumerate(batches):
            mask, calls = batch.get("attention_mask"), 0
            with suppress(_LastUse):
                forward(number)
    for name, moments in statistics.items():
        if not moments.squares.isfinite().all():
            raise CompressionError(f"layer {name}: its calibration inputs are not finite")
        if not moments.tokens:
            warnings.warn(name, UnroutedExpert, stacklevel=3)
    return statistics


def _tokens(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``inputs`` as ``(tokens, features)`` without padding.

    Inputs whose shape differs from that of the mask, such as a pooler's, have no padding.
    """
    flat = inputs.flatten(0, -2)
    if mask is not None and inputs.shape[:-1] in (mask.shape, (mask.numel(),)):
        return flat[mask.flatten().bool()]
    return flat
