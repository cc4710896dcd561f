"""What can go wrong, in words that name the layer or the setting and say what to do."""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

LONGEST_REASON = 300
"""Characters that are told of an error of another library."""


class CompressionError(Exception):
    """A model, recipe or calibration that cannot be compressed as asked."""


class RecipeError(CompressionError):
    """A recipe that cannot be understood, or that does not fit the model."""


def unreached(layer: str, how: str = "") -> RecipeError:
    """The error of a layer whose inputs a method needs and never sees."""
    return RecipeError(
        f"layer {layer}: no calibration input reached it; exclude it from the recipe{how}"
    )


class CompressionWarning(UserWarning):
    """Something that a step did otherwise than asked, for a person to read."""


def is_failure(error: BaseException) -> bool:
    """Whether it is an error and no interruption.

    A panic of a library written in Rust, such as ``tokenizers``, is one too: its class derives from
    BaseException and cannot be imported.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def reason_of(error: BaseException) -> str:
    """Kind and message of an error of another library, in one line."""
    reason = " ".join(str(error).split())[:LONGEST_REASON] or "no reason given"
    return f"{type(error).__name__}: {reason}"


def placed_reason_of(error: BaseException, model: "nn.Module") -> str:
    """The same behind the name of the innermost module of ``model`` that it came through."""
    names = {id(module): name for name, module in model.named_modules()}
    place = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        place = names.get(id(frame.f_locals.get("self")), "") or place
    return f"layer {place}: {reason_of(error)}" if place else reason_of(error)


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Errors and warnings of what runs inside then name the layer.

    Raises:
        CompressionError: whatever error ended what runs inside.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except CompressionError as error:
            raise type(error)(f"layer {layer}: {error}") from error
        except BaseException as error:  # a method may be anybody's
            if not is_failure(error):
                raise
            raise CompressionError(f"layer {layer}: {reason_of(error)}") from error
    for warning in caught:
        warnings.warn(f"layer {layer}: {warning.message}", warning.category, stacklevel=4)
