"""Log the results of a run to MLflow.

A run of the gates becomes a run of MLflow, with the report as artifacts, and each candidate a
nested run, so that MLflow compares candidates and shows their series over time.
"""

import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from compression_gates.evals.errors import EvalError, kind_and_line
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.report.report import Entry

EXPERIMENT = "compression-gates"
"""Name of the experiment that contains the runs."""
PARENT_TAG, RESULT_TAG = "mlflow.parentRunId", "gates.result"
FINISHED, FAILED = "FINISHED", "FAILED"
MAX_TAG = 5000
"""Number of characters of a tag that every store of MLflow takes."""
CONNECT_TIMEOUT = 30
"""Seconds in which a server has to answer before the run."""
_SERVERS = ("http://", "https://", "databricks")
"""How URIs of stores begin that MLflow reaches by HTTP."""
_REQUESTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""Settings of MLflow while a server is asked, unless the user has set them."""
Result = TypeVar("Result")
_SQLITE = "sqlite:///"
_USER_INFORMATION = re.compile(r"(?<=://)(?!/)\S*@")
"""User and password before the host of a URI. A password that is not quoted may contain any
character, so that everything up to the last ``@`` is taken for it."""
_TEXTS = 100
"""Number of parameters or tags that MLflow takes in one call; it takes 1000 metrics."""


class Tracker:
    """An experiment in an MLflow store. It is opened before a run, so that errors appear early.

    Args:
        uri: of the store, such as ``sqlite:///gates.db`` or ``https://mlflow.example.com``. The
            artifacts of an SQLite file are stored next to it, in the folder ``NAME-artifacts``.

    Raises:
        EvalError: MLflow is not installed, or the store cannot be opened or does not answer soon.
    """

    def __init__(self, uri: str):
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise EvalError(
                f"MLflow store {shown_uri(uri)}: MLflow cannot be imported "
                f"({kind_and_line(error)}); pip install 'compression-gates[mlflow]'"
            ) from error
        location = None
        if uri.startswith(_SQLITE):
            file = Path(uri.removeprefix(_SQLITE)).resolve()
            if not file.parent.is_dir():
                raise EvalError(
                    f"MLflow store {shown_uri(uri)}: the folder {file.parent} does not exist"
                )
            location = file.with_name(f"{file.stem}-artifacts").as_uri()

        def opened() -> tuple[MlflowClient, str]:
            client = MlflowClient(uri)
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                return client, client.create_experiment(EXPERIMENT, location)
            return client, experiment.experiment_id

        try:
            if uri.startswith(_SERVERS):
                with _few_requests():
                    found = call_with_timeout(opened, CONNECT_TIMEOUT)
            else:
                # Creating the tables of a database can take long, and must not be cut short.
                _check_reachable(uri)
                found = opened()
            self._client, self._experiment = found
        except Exception as error:
            raise _store_error(uri, error) from error
        self._uri = uri

    def __str__(self) -> str:
        return f"the MLflow store {shown_uri(self._uri)}"

    def log(
        self,
        entries: Sequence[Entry],
        sentence: str,
        passed: bool,
        files: Iterable[Path] = (),
    ) -> str:
        """Log a run, and return the id of its run in MLflow.

        Args:
            entries: the verdicts.
            sentence: the result of the run.
            passed: whether no case failed.
            files: artifacts, such as those of the report.

        Raises:
            EvalError: the store does not take them. A run that was begun is marked as failed.
        """
        begun: list[str] = []
        try:
            parent = self._begin("gates", {RESULT_TAG: sentence}, begun)
            for key in dict.fromkeys((entry.group, entry.row) for entry in entries):
                of_candidate = [entry for entry in entries if (entry.group, entry.row) == key]
                self._log_candidate(parent, of_candidate, begun)
            for file in files:
                self._client.log_artifact(parent, str(file))
            self._client.set_terminated(parent, FINISHED if passed else FAILED)
        except BaseException as error:
            for run in begun:
                with suppress(Exception):
                    self._client.set_terminated(run, FAILED)
            if not isinstance(error, Exception):
                raise
            raise _store_error(self._uri, error) from error
        return parent

    def correct(self, run: str, sentence: str, files: Iterable[Path] = ()) -> None:
        """Mark a logged run as failed, because something went wrong after it was logged.

        Args:
            run: the id that :meth:`log` returned.
            sentence: the result of the run.
            files: artifacts that replace those of the same names.

        Raises:
            EvalError: the store does not take them.
        """
        try:
            self._client.set_tag(run, RESULT_TAG, _tag(sentence))
            self._client.set_terminated(run, FAILED)
            for file in files:
                self._client.log_artifact(run, str(file))
        except Exception as error:
            raise _store_error(self._uri, error) from error

    def _begin(self, name: str, tags: dict[str, str], begun: list[str]) -> str:
        tags = {key: _tag(value) for key, value in tags.items()}
        run = self._client.create_run(self._experiment, tags=tags, run_name=on_one_line(name))
        begun.append(run.info.run_id)
        return run.info.run_id

    def _log_candidate(self, parent: str, entries: Sequence[Entry], begun: list[str]) -> None:
        from mlflow.entities import Metric, Param

        first = entries[0]
        failed = [e.verdict.metric for e in entries if not e.passed and not e.reason]
        known = [e.verdict.metric for e in entries if not e.passed and e.reason]
        tags = {PARENT_TAG: parent, "gates.failed": ", ".join(failed)}
        tags["gates.known_failures"] = ", ".join(known)
        run = self._begin(first.verdict.candidate, tags, begun)
        params = {
            "baseline": first.group,
            "candidate": first.row,
            "stored_as": next((entry.form for entry in entries if entry.form), ""),
            "run_on": next((entry.kernel for entry in entries if entry.kernel), ""),
        }
        params |= {f"limit.{e.verdict.metric}": repr(e.verdict.limit) for e in entries}
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, 0)
            for entry in entries
            for name, value in _numbers(entry).items()
        ]
        texts = [Param(name, _tag(value)) for name, value in params.items()]
        for start in range(0, len(texts), _TEXTS):
            self._client.log_batch(run, params=texts[start : start + _TEXTS])
        self._client.log_batch(run, metrics=metrics)
        self._client.set_terminated(run, FAILED if failed else FINISHED)


def call_with_timeout(function: Callable[[], Result], seconds: float) -> Result:
    """Return the result of a function, which is called in a thread.

    The thread goes on after the time limit, until the function returns or the process ends.

    Raises:
        TimeoutError: the function has not returned in time.
        BaseException: the error of the function.
    """
    results: SimpleQueue[tuple[Result | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            results.put((function(), None))
        except BaseException as error:
            results.put((None, error))

    # Unlike that of an executor, a daemon thread that still waits does not delay the exit.
    Thread(target=run, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds} s") from None
    if error is not None:
        raise error
    return result


@contextmanager
def _few_requests() -> Iterator[None]:
    """Let MLflow give up early. By default, it tries for minutes to reach a server, silently."""
    added = {name: text for name, text in _REQUESTS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _check_reachable(uri: str) -> None:
    """Raise an OSError if the server of a database does not take connections.

    MLflow would try for minutes to connect. Nothing is checked if the URI does not name one server.
    """
    ports = {"postgresql": os.environ.get("PGPORT", "5432"), "mysql": "3306", "mssql": None}
    parts = urlsplit(_USER_INFORMATION.sub("", uri))
    kind = parts.scheme.partition("+")[0]
    if kind in ports and parts.hostname and "," not in parts.netloc:
        port = parts.port or ports[kind]
        if port is not None:
            socket.create_connection((parts.hostname, port), CONNECT_TIMEOUT).close()


def _tag(text: str) -> str:
    """Return a text as every store of MLflow takes it."""
    return on_one_line(text)[:MAX_TAG]


def shown_uri(uri: str) -> str:
    """Return a URI without what can contain a password: the user information and the query."""
    return _USER_INFORMATION.sub("", uri).partition("?")[0]


def _store_error(uri: str, error: Exception) -> EvalError:
    """Return the error of a store. MLflow quotes the URI or its password in some messages."""
    text = kind_and_line(error).replace(uri, shown_uri(uri))
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        text = text.replace(secret, "***")
    return EvalError(f"MLflow store {shown_uri(uri)}: {_USER_INFORMATION.sub('', text)}")


def _secrets(uri: str) -> set[str]:
    """Return the password, and the values of the query, of a URI, as written and decoded."""
    user_information = "".join(_USER_INFORMATION.findall(uri)).removesuffix("@")
    user, _, password = user_information.partition(":")
    query = _USER_INFORMATION.sub("", uri).partition("?")[2]
    values = [part.partition("=")[2] for part in query.split("&")]
    secrets = {password or user, *values}
    return {text for secret in secrets for text in (secret, unquote(secret)) if text}


def _numbers(entry: Entry) -> dict[str, float]:
    """Return the finite numbers of a verdict by their names in MLflow."""
    verdict, metric = entry.verdict, entry.verdict.metric
    numbers = {
        metric: verdict.value,
        f"{metric}.low": verdict.low,
        f"{metric}.high": verdict.high,
        f"{metric}.n": verdict.n,
        f"{metric}.passed": float(entry.passed),
    }
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
