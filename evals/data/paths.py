"""Paths that users give."""

import os
from pathlib import Path

from compression_gates.evals.errors import EvalError


def expanded(reference: str | Path) -> Path:
    """Return a path with ``~`` and ``~user`` expanded.

    A path with an unknown user is returned unchanged, so that it is reported as missing.
    """
    return Path(os.path.expanduser(reference))


def make_writable_folder(directory: Path, name: str) -> None:
    """Make a folder if it does not exist, and check that files can be written to it.

    Args:
        directory: the folder.
        name: what it is, for the error.

    Raises:
        EvalError: it cannot be made or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EvalError(f"{name} {directory}: {error.strerror}") from error


def is_stream(path: Path) -> bool:
    """Return whether a path exists and is neither a file nor a folder.

    Reading a named pipe, for example, can block, and it cannot be read twice.
    """
    return path.exists() and not (path.is_file() or path.is_dir())
