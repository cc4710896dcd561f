"""Paths that users give."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
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
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise EvalError(f"{name} {directory}: {error.strerror}") from error


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write files under temporary names, and rename them when all are written.

    The temporary names are always the same, so that files of a killed run are removed by the next
    one. A link is replaced, and not followed: a folder of outputs may come from someone else, whose
    link could name any file.

    Raises:
        OSError: a file cannot be written.
    """
    written: dict[Path, Path] = {}
    try:
        for file, content in contents.items():
            # A short name, because the file's own may already have the maximum length.
            digest = hashlib.sha256(os.fsencode(file.name)).hexdigest()[:16]
            partial = file.with_name(f"{digest}.partial")
            partial.unlink(missing_ok=True)
            with partial.open("xb") as stream:
                written[file] = partial
                stream.write(content)
        for file, partial in written.items():
            partial.replace(file)
    finally:
        for partial in written.values():
            with suppress(OSError):
                partial.unlink()


def is_stream(path: Path) -> bool:
    """Return whether a path exists and is neither a file nor a folder.

    Reading a named pipe, for example, can block, and it cannot be read twice.
    """
    return path.exists() and not (path.is_file() or path.is_dir())
