"""Paths that users give."""

import os
from pathlib import Path


def expanded(reference: str | Path) -> Path:
    """Return a path with ``~`` and ``~user`` expanded.

    A path with an unknown user is returned unchanged, so that it is reported as missing.
    """
    return Path(os.path.expanduser(reference))


def is_stream(path: Path) -> bool:
    """Return whether a path exists and is neither a file nor a folder.

    Reading a named pipe, for example, can block, and it cannot be read twice.
    """
    return path.exists() and not (path.is_file() or path.is_dir())
