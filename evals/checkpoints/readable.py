"""Check that weight files are complete, by reading their headers."""

from pathlib import Path

from compression_gates.evals.checkpoints.checkpoint import ADAPTER_WEIGHTS, Checkpoint
from compression_gates.evals.checkpoints.files import weight_files
from compression_gates.evals.errors import EvalError, kind_and_line

LFS_POINTER = b"version https://git-lfs"
"""The beginning of a file whose content Git LFS has not downloaded."""


def check_readable(checkpoint: Checkpoint) -> None:
    """Check the headers of all weight files of a checkpoint, and of an adapter's base.

    Raises:
        EvalError: a file is truncated, is a pointer of Git LFS, or is not a file of weights.
    """
    if checkpoint.base is not None:
        check_readable(checkpoint.base)
        files = [checkpoint.path / ADAPTER_WEIGHTS]
    elif checkpoint.file:
        files = [checkpoint.path / checkpoint.file]
    else:
        files = weight_files(checkpoint.path)
    for file in files:
        with file.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise EvalError(f"{file} is a pointer of Git LFS; run git lfs pull")
        try:
            _read_header(file)
        except Exception as error:  # gguf raises many types for damaged files
            raise EvalError(f"{file} does not load: {kind_and_line(error)}") from error


def _read_header(file: Path) -> None:
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, "np"):
            return
    from gguf import GGUFReader

    GGUFReader(file)
