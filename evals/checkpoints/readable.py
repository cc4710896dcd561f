"""Files of weights that are cut off, or are none, by their headers."""

from pathlib import Path

from compression_gates.evals.checkpoints.checkpoint import ADAPTER_WEIGHTS, Checkpoint
from compression_gates.evals.checkpoints.files import weight_files
from compression_gates.evals.errors import EvalError, kind_and_line

LFS_POINTER = b"version https://git-lfs"
"""How a file begins that Git LFS has not replaced by its content."""


def check_readable(checkpoint: Checkpoint) -> None:
    """Raises an EvalError for a file of weights that is cut off or is none, from its header; those
    that an adapter adapts included."""
    from safetensors import SafetensorError, safe_open

    if checkpoint.base is not None:
        check_readable(checkpoint.base)
    if checkpoint.file:
        _check_gguf(checkpoint.path / checkpoint.file)
    if checkpoint.base is not None:
        files = [checkpoint.path / ADAPTER_WEIGHTS]
    else:
        files = [] if checkpoint.file else weight_files(checkpoint.path)
    for file in files:
        with file.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise EvalError(f"{file} is a pointer of Git LFS; run git lfs pull")
        try:
            with safe_open(file, "np"):
                pass
        except (OSError, SafetensorError) as error:
            raise EvalError(f"{file} does not load: {type(error).__name__}: {error}") from error


def _check_gguf(file: Path) -> None:
    from gguf import GGUFReader

    try:
        GGUFReader(file)
    except Exception as error:  # whatever its parts are read as
        raise EvalError(f"{file} does not load: {kind_and_line(error)}") from error
