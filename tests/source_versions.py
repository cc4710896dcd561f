"""Versions of the source code, computed as a new process would."""

from collections.abc import Callable

from compression_gates.evals.store import provenance


def fresh(version: Callable[..., object], *arguments: object) -> object:
    """Return what a function returns after all files of the source have been read again.

    What is known of the same bytes, and therefore does not depend on files, is kept.
    """
    of_files = {
        function
        for function in vars(provenance).values()
        if hasattr(function, "cache_clear") and function.__module__ == provenance.__name__
    }
    for function in {version, *of_files} - {provenance.read_source}:
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    return version(*arguments)
