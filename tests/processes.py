"""Processes forked from a server that has imported the libraries and computed nothing.

A program that runs in one of them starts in milliseconds, where ``python -m`` would first import
torch and transformers for four seconds. It is a process in all other respects: it has memory,
arguments, an environment, a working folder, output and an exit code of its own, and may hang or end
without harm to the tests. The server itself must not compute anything, since a process that has
threads cannot be forked safely.

What the server imports is in :mod:`tests.preloaded`. A run with workers starts them as fresh
interpreters, unless :func:`run_forking_workers` runs it.

Programs whose start itself is tested run in a fresh interpreter instead: see :func:`run_fresh`.
"""

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

import pytest

from tests.workers import fork_workers

LONGEST = 900
"""Seconds after which a process is killed, so that one that hangs fails its test."""
_ROOT = Path(__file__).parents[1]
_PRELOADED = "tests.preloaded"
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([_PRELOADED])


def environment() -> dict[str, str]:
    """Return the environment of this process, without the variables by which GitHub Actions is
    recognized: the gates of a test would annotate the run of all tests."""
    return {name: text for name, text in os.environ.items() if not name.startswith("GITHUB_")}


def start(target: Callable, *arguments: object) -> multiprocessing.Process:
    """Start a process that calls ``target``, which can be pickled."""
    with pytest.MonkeyPatch.context() as patch:
        # Workers of pytest-xdist leave the current folder out of the path of what they start.
        patch.setenv("PYTHONPATH", str(_ROOT), prepend=os.pathsep)
        forkserver.ensure_running()
    process = _CONTEXT.Process(target=_check_preloaded, args=(target, *arguments))
    process.start()
    return process


def _check_preloaded(target: Callable, *arguments: object) -> None:
    """Call ``target``. The server says nothing about modules that it could not import."""
    if _PRELOADED not in sys.modules:
        raise ImportError(f"the server of processes could not import {_PRELOADED}")
    target(*arguments)


def pipe() -> tuple:
    """The reading and the writing end of a pipe that can be handed to :func:`start`."""
    return _CONTEXT.Pipe(duplex=False)


def result_of(target: Callable, *arguments: object) -> object:
    """Return what ``target`` returns in a process of its own."""
    reader, writer = pipe()
    process = start(_send, writer, target, arguments)
    writer.close()
    try:
        if not reader.poll(LONGEST):
            raise TimeoutError(f"{target.__name__} did not end within {LONGEST} s")
        result, error = reader.recv()
    finally:
        _join(process)
    if error is not None:
        raise RuntimeError(error)
    return result


def _send(writer, target: Callable, arguments: tuple) -> None:
    try:
        writer.send((target(*arguments), None))
    except BaseException:
        writer.send((None, traceback.format_exc()))
        raise


def _join(process: multiprocessing.Process) -> None:
    """Wait for the end of a process, and kill it if it takes too long."""
    process.join(LONGEST)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"a process was killed after {LONGEST} s")


def run_module(
    module: str,
    words: Sequence[object],
    cwd: Path,
    env: Mapping[str, str] | None = None,
    prepare: Callable[[], object] | None = None,
) -> subprocess.CompletedProcess:
    """Run ``python -m module *words`` in a forked process and return it with its output.

    Args:
        env: the environment; by default that of this process, except what a CI service set.
        prepare: what the process calls first.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        # Files that were opened here are passed by number, which the process opens anew.
        paths = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (output, errors)]
        process = start_module(module, words, cwd, env, paths, prepare)
        _join(process)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([module, *map(str, words)], process.exitcode, *texts)


def start_module(
    module: str,
    words: Sequence[object],
    cwd: Path,
    env: Mapping[str, str] | None = None,
    paths: Sequence[str] = (os.devnull, os.devnull),
    prepare: Callable[[], object] | None = None,
) -> multiprocessing.Process:
    """Start what :func:`run_module` runs.

    Args:
        paths: the files that its output and its errors are written to.
    """
    command = [module, *map(str, words)]
    return start(_run_module, command, str(cwd), dict(env or environment()), list(paths), prepare)


def run_forking_workers(
    module: str, words: Sequence[object], cwd: Path
) -> subprocess.CompletedProcess:
    """Run ``python -m module *words`` in a forked process whose workers of pytest-xdist are forked
    as well, and do not start as fresh interpreters."""
    return run_module(module, words, cwd, prepare=fork_workers)


def _run_module(
    command: list[str],
    cwd: str,
    environment: dict[str, str],
    paths: list[str],
    prepare: Callable[[], object] | None,
) -> None:
    gc.freeze()  # so that collections leave the memory shared that the imports filled
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in enumerate(paths, start=1):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    os.environ.clear()
    # pytest warns of plugins that were imported before it could rewrite their assertions.
    imported = "-W 'ignore:Module already imported so cannot be rewritten'"
    options = f"{environment.get('PYTEST_ADDOPTS', '')} {imported}"
    os.environ.update(environment, PYTEST_ADDOPTS=options)
    os.chdir(cwd)
    sys.argv = command
    sys.path.insert(0, cwd)
    if prepare is not None:
        prepare()
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def run_fresh(
    module: str, words: Sequence[object], cwd: Path, **options
) -> subprocess.CompletedProcess:
    """Run ``python -m module *words`` in an interpreter that has imported nothing yet."""
    command = [sys.executable, "-m", module, *map(str, words)]
    options = {"env": environment(), **options}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, **options)
