"""Locks between processes, released by the kernel even when a process is killed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(
    path: Path, shared: bool = False, temporary: bool = False, wait: bool = True
) -> Iterator[bool]:
    """Hold a lock on the file ``path``, which is created if it does not exist.

    Args:
        path: the lock file.
        shared: hold a shared lock instead of an exclusive one.
        temporary: remove the file on exit; the lock must be exclusive.
        wait: wait until the lock is free.

    Yields:
        Whether the lock is held, which is always true if ``wait``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        descriptor = _acquire(path, operation if wait else operation | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        if temporary:
            with suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _acquire(path: Path, operation: int) -> int:
    """Return a locked descriptor of the file ``path``.

    The previous holder may have removed the file before releasing the lock. A lock on a removed
    file excludes no other process, so the file is opened again.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, operation)
            if _is_same_file(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
