"""Suppress logs, warnings and progress bars of libraries."""

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
    """Suppress logs below errors, warnings of libraries, and progress bars of transformers.

    Warnings of this package are shown even if standard error is suppressed.

    Args:
        bars: show other progress bars, and anything else written to standard error.
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
            # Imported here because the import itself logs.
            from transformers.utils import logging as loaders

            enabled = loaders.is_progress_bar_enabled()
            loaders.disable_progress_bar()
            try:
                yield
            finally:
                if enabled:
                    loaders.enable_progress_bar()
    finally:
        logging.disable(disabled)


def _show_on(stream: TextIO) -> None:
    """Write warnings to ``stream`` even if standard error is redirected, until
    ``catch_warnings`` restores the state."""
    show = warnings.showwarning

    def shown(message, category, filename, lineno, file=None, line=None) -> None:
        show(message, category, filename, lineno, file or stream, line)

    warnings.showwarning = shown
