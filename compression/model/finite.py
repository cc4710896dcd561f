"""Check that a model is finite."""

from transformers import PreTrainedModel

from compression_gates.compression.errors import CompressionError


def check_finite(model: PreTrainedModel, before: str = "", when: str = "") -> None:
    """Raise a CompressionError that names the first tensor with NaN or infinite values.

    The message begins with ``before`` and ends with ``when``.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CompressionError(f"{before}{name} holds values that are not finite{when}")
