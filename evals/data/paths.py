"""Paths as users and files write them."""

import os
from pathlib import Path


def expanded(reference: str | Path) -> Path:
    """A path with ``~`` and ``~user`` as the home folder; as it is where there is no such user,
    so that it is told as a path that does not exist."""
    return Path(os.path.expanduser(reference))


def is_stream(path: Path) -> bool:
    """Whether a path is something else than a file or a folder, such as a named pipe, which would
    be waited for, and cannot be read twice."""
    return path.exists() and not (path.is_file() or path.is_dir())
