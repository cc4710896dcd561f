"""What can go wrong, in words that name the layer or the setting and say what to do."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class CompressionError(Exception):
    """A model, recipe or calibration that cannot be compressed as asked."""


class RecipeError(CompressionError):
    """A recipe that cannot be understood, or that does not fit the model."""


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Errors and warnings of what runs inside then name the layer."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except CompressionError as error:
            raise type(error)(f"layer {layer}: {error}") from error
    for warning in caught:
        warnings.warn(f"layer {layer}: {warning.message}", warning.category, stacklevel=4)
