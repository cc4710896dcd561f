"""Keeps what libraries log, warn of and draw off a terminal that is somebody else's."""

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import TextIO

from compression_gates.compression.errors import CompressionWarning


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """No log below an error, no warning of a library and no bar of transformers while it is open.

    Warnings of this package are shown, also where standard error is not.

    Args:
        bars: whether others, and whatever else is written to standard error, are shown.
    """
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            _show_on(sys.stderr)
            if not bars:
                stack.enter_context(redirect_stderr(io.StringIO()))
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", CompressionWarning)
            # Its import has things to say too.
            from transformers.utils import logging as loaders

            shown = loaders.is_progress_bar_enabled()
            loaders.disable_progress_bar()
            try:
                yield
            finally:
                if shown:
                    loaders.enable_progress_bar()
    finally:
        logging.disable(disabled)


def _show_on(stream: TextIO) -> None:
    """Has warnings shown as they were so far, but written to ``stream`` whatever becomes of
    standard error; until the warnings' state is restored."""
    show = warnings.showwarning

    def shown(message, category, filename, lineno, file=None, line=None) -> None:
        show(message, category, filename, lineno, file or stream, line)

    warnings.showwarning = shown
