"""Errors and warnings of this package, whose messages name the layer or the setting."""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

MAX_REASON_LENGTH = 300
"""Characters kept of the message of another library's error."""


class CompressionError(Exception):
    """A model, recipe or data set does not allow the requested compression."""


class RecipeError(CompressionError):
    """A recipe is invalid, or does not fit the model."""


def unreached(layer: str, how: str = "") -> RecipeError:
    """Return the error for a layer that no calibration input reaches."""
    return RecipeError(
        f"layer {layer}: no calibration input reached it; exclude it from the recipe{how}"
    )


class CompressionWarning(UserWarning):
    """A step deviated from the recipe."""


def is_failure(error: BaseException) -> bool:
    """Return whether an exception is an error rather than an interruption.

    Panics of libraries written in Rust, such as ``tokenizers``, are errors, but their class derives
    from BaseException and cannot be imported.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def reason_of(error: BaseException) -> str:
    """Format the type and the message of another library's error on one line."""
    reason = " ".join(str(error).split())[:MAX_REASON_LENGTH] or "no message"
    return f"{type(error).__name__}: {reason}"


def placed_reason_of(error: BaseException, model: "nn.Module") -> str:
    """As :func:`reason_of`, preceded by the innermost module of ``model`` in the traceback."""
    names = {id(module): name for name, module in model.named_modules()}
    place = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        place = names.get(id(frame.f_locals.get("self")), "") or place
    return f"layer {place}: {reason_of(error)}" if place else reason_of(error)


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Prefix errors and warnings with the name of a layer.

    Raises:
        CompressionError: in place of any error.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except CompressionError as error:
            raise type(error)(f"layer {layer}: {error}") from error
        except BaseException as error:  # methods can be third-party code
            if not is_failure(error):
                raise
            raise CompressionError(f"layer {layer}: {reason_of(error)}") from error
    for warning in caught:
        warnings.warn(f"layer {layer}: {warning.message}", warning.category, stacklevel=4)
