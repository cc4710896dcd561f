"""Locks between processes, released by the kernel even when a process is killed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(path: Path, shared: bool = False, temporary: bool = False) -> Iterator[None]:
    """Holds ``path`` for this process, alone or ``shared`` with others that share it.

    A ``temporary`` lock is held alone, and its file is removed when it is released.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquired(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        _release(descriptor, path, temporary)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Holds ``path`` alone and removes its file at the end, unless somebody else holds it; whether
    it is held here."""
    try:
        descriptor = _acquired(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        _release(descriptor, path, temporary=True)


def _acquired(path: Path, how: int) -> int:
    """A locked descriptor of the file that ``path`` names now.

    Whoever held it may have removed the file meanwhile, so that a lock on it excludes nobody.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, how)
            if _is_named(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_named(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release(descriptor: int, path: Path, temporary: bool) -> None:
    if temporary:
        with suppress(OSError):
            path.unlink()
    os.close(descriptor)
