"""Whether a model's numbers are numbers."""

from transformers import PreTrainedModel

from compression_gates.compression.errors import CompressionError


def check_finite(model: PreTrainedModel, before: str = "", when: str = "") -> None:
    """Raises a CompressionError that names the first tensor which is not finite, between the words
    ``before`` and ``when``."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CompressionError(f"{before}{name} holds values that are not finite{when}")
