import math
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock
from urllib.parse import unquote

import pytest

from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.gate import Gate, verdict_of
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.report import tracking
from compression_gates.evals.report.report import Entry
from compression_gates.evals.report.tracking import EXPERIMENT, Tracker, shown_uri
from compression_gates.evals.statistics.estimate import Estimate

mlflow = pytest.importorskip("mlflow")


def entry(row, metric, value, limit, **fields):
    estimate = Estimate(value, value - 0.01, math.inf, 50, 50)
    verdict = verdict_of(f"m-{row}", Gate(metric, limit), MetricResult(estimate, 1.0, 2.0))
    return Entry("m", row, verdict, fields.pop("passed", verdict.met), **fields)


ENTRIES = [
    entry("wanda-50", "js_divergence", 0.004, 0.01, form="plain", kernel="eager"),
    entry("wanda-50", "flips", 0.2, 0.03),
    entry("rtn-<b>\x1b[2J", "js_divergence", 0.5, 0.01, reason="known"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'gates.db'}"


def runs_of(store):
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return client, client.search_runs([experiment.experiment_id])


def test_a_run_is_logged_with_a_nested_run_per_candidate(store, tmp_path):
    report = tmp_path / "report.md"
    report.write_text("# Gates")
    parent = Tracker(store).log(ENTRIES, "1 of 3 gates failed", False, [report])
    client, runs = runs_of(store)
    assert client.get_run(parent).data.tags["gates.result"] == "1 of 3 gates failed"
    assert client.get_run(parent).info.status == "FAILED"
    assert [file.path for file in client.list_artifacts(parent)] == ["report.md"]
    nested = {
        run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent
    }
    assert set(nested) == {"m-wanda-50", r"m-rtn-<b>\x1b[2J"}
    wanda = nested["m-wanda-50"]
    assert wanda.data.metrics["js_divergence"] == 0.004
    assert wanda.data.metrics["js_divergence.low"] == pytest.approx(-0.006)
    assert "js_divergence.high" not in wanda.data.metrics  # infinite
    assert wanda.data.metrics["flips.passed"] == 0
    assert wanda.data.params["limit.flips"] == "0.03"
    assert wanda.data.params["run_on"] == "eager"
    assert wanda.data.tags["gates.failed"] == "flips"
    known = nested[r"m-rtn-<b>\x1b[2J"]
    assert known.data.tags["gates.known_failures"] == "js_divergence"
    assert known.info.status == "FINISHED"


def test_a_second_run_is_added_to_the_same_experiment(store):
    before = len(runs_of(store)[1])
    parent = Tracker(store).log([replace(ENTRIES[0])], "all gates hold", True)
    client, runs = runs_of(store)
    assert len(runs) == before + 2
    assert client.get_run(parent).info.status == "FINISHED"


def test_a_store_that_fails_is_named_and_its_run_marked(store, tmp_path):
    tracker = Tracker(store)
    with pytest.raises(EvalError, match=r"MLflow store sqlite:.*missing"):
        tracker.log(ENTRIES[:1], "cannot be logged", True, [tmp_path / "missing"])
    client, runs = runs_of(store)
    [parent] = [run for run in runs if run.data.tags.get("gates.result") == "cannot be logged"]
    assert parent.info.status == "FAILED"
    assert parent.data.tags.get("mlflow.parentRunId") is None
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert [client.get_run(run.info.run_id).info.status for run in nested] == ["FAILED"]


SECRETS = [
    ("postgresql://user:s3cret@host.invalid/db", "s3cret"),
    ("postgresql://user:s3cret%40x@host.invalid/db", "s3cret@x"),
    ("postgresql://user:a/b?@s3cret@host.invalid/db", "a/b?@s3cret"),
    ("postgresql://s3cret@host.invalid/db", "s3cret"),
    ("https://user:s3cret@mlflow.invalid/path", "s3cret"),
    ("mysql+pymysql://user@host.invalid/db?password=s3cret&charset=utf8", "s3cret"),
]


@pytest.mark.parametrize(("uri", "password"), SECRETS)
@pytest.mark.parametrize("message", ["{uri}", "no login with {password}", "cannot open '{plain}'"])
def test_a_password_is_shown_nowhere(uri, password, message, monkeypatch):
    """MLflow quotes the URI, or parts of it, in some messages."""
    text = message.format(uri=uri, plain=unquote(uri), password=password)

    def fail(*_, **__):
        raise RuntimeError(text)

    monkeypatch.setattr(socket, "create_connection", MagicMock())
    monkeypatch.setattr(mlflow, "MlflowClient", fail)
    with pytest.raises(EvalError) as caught:
        Tracker(uri)
    assert "s3cret" not in str(caught.value)
    assert ".invalid" in str(caught.value)
    monkeypatch.setattr(mlflow, "MlflowClient", MagicMock())
    tracker = Tracker(uri)
    assert "s3cret" not in str(tracker)
    assert ".invalid" in str(tracker)
    tracker._client.create_run.side_effect = fail
    with pytest.raises(EvalError, match="MLflow store") as caught:
        tracker.log(ENTRIES, "all gates hold", True)
    assert "s3cret" not in str(caught.value)
    tracker._client.set_tag.side_effect = fail
    with pytest.raises(EvalError, match="MLflow store") as caught:
        tracker.correct("run", "all gates hold")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["sqlite:///a@b/gates.db", "https://mlflow.invalid:5000/a", "runs"])
def test_a_uri_without_a_password_is_shown_as_it_is(uri):
    assert shown_uri(uri) == uri


def test_a_logged_run_is_corrected(store, tmp_path):
    report = tmp_path / "report.md"
    report.write_text("release")
    tracker = Tracker(store)
    parent = tracker.log(ENTRIES[:1], "release", True, [report])
    report.write_text("cannot tell")
    tracker.correct(parent, "cannot tell: x\n", [report])
    client, _ = runs_of(store)
    run = client.get_run(parent)
    assert (run.data.tags["gates.result"], run.info.status) == (r"cannot tell: x\n", "FAILED")
    assert Path(client.download_artifacts(parent, "report.md")).read_text() == "cannot tell"
    with pytest.raises(EvalError, match="MLflow store sqlite:"):
        tracker.correct("0" * 32, "cannot tell")


def test_a_run_that_is_interrupted_while_it_is_logged_is_marked(store):
    tracker = Tracker(store)
    before = {run.info.run_id for run in runs_of(store)[1]}

    def files():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        tracker.log(ENTRIES[:1], "release", True, files())
    begun = [run for run in runs_of(store)[1] if run.info.run_id not in before]
    assert len(begun) == 2
    assert {run.info.status for run in begun} == {"FAILED"}


@pytest.fixture
def silent():
    """The address of a server that takes connections and never answers."""
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield "{}:{}".format(*server.getsockname())
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


def test_a_server_that_does_not_answer_is_refused_soon(silent, monkeypatch):
    monkeypatch.setattr(tracking, "CONNECT_TIMEOUT", 0.5)
    before = dict(os.environ)
    with pytest.raises(EvalError) as caught:
        Tracker(f"http://{silent}/a")
    reason = "TimeoutError: no answer within 0.5 s"
    assert str(caught.value) == f"MLflow store http://{silent}/a: {reason}"
    assert dict(os.environ) == before


@pytest.mark.parametrize("uri", [
    "postgresql://user:s3/cret@{silent}/db", "mysql+pymysql://{silent}/db", "runs",
    "postgresql:///db?host=/run/postgresql", "postgresql://a.invalid,b.invalid/db",
    "mssql+pyodbc://name",
])  # fmt: skip
def test_no_time_limit_interrupts_the_creation_of_tables(uri, silent, monkeypatch):
    """A thread that outlived a limit would be killed with the process, and its database would be
    left with a part of its tables."""
    threads = []
    monkeypatch.setattr(
        mlflow,
        "MlflowClient",
        lambda uri: threads.append(threading.current_thread()) or MagicMock(),
    )
    Tracker(uri.format(silent=silent))
    assert threads == [threading.current_thread()]


@pytest.mark.parametrize("scheme", ["postgresql", "mysql+pymysql", "mssql+pymssql"])
def test_a_database_that_cannot_be_reached_is_refused_at_once(scheme, monkeypatch):
    monkeypatch.setattr(mlflow, "MlflowClient", MagicMock())
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = "{}:{}".format(*server.getsockname())
    with pytest.raises(EvalError) as caught:
        Tracker(f"{scheme}://user:s3/cret@{place}/db")
    assert str(caught.value).startswith(f"MLflow store {scheme}://{place}/db: ConnectionRefused")
    mlflow.MlflowClient.assert_not_called()


@pytest.mark.parametrize(("scheme", "port"), [("postgresql", "5432"), ("mysql", "3306")])
def test_a_database_without_a_port_has_that_of_its_kind(scheme, port, monkeypatch):
    monkeypatch.delenv("PGPORT", raising=False)
    monkeypatch.setattr(mlflow, "MlflowClient", MagicMock())
    monkeypatch.setattr(socket, "create_connection", MagicMock())
    Tracker(f"{scheme}://host.invalid/db")
    assert socket.create_connection.call_args.args[0] == ("host.invalid", port)


def test_an_exit_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(tracking, "CONNECT_TIMEOUT", 5)
    monkeypatch.setattr(mlflow, "MlflowClient", MagicMock(side_effect=SystemExit(3)))
    with pytest.raises(SystemExit, match="3"):
        Tracker("http://127.0.0.1:9")


def test_a_server_that_refuses_connections_is_not_tried_again_and_again(monkeypatch):
    settings = {}

    def refused(uri):
        settings.update(
            {name: text for name, text in os.environ.items() if "_HTTP_REQUEST_" in name}
        )
        raise ConnectionRefusedError("nobody listens")

    monkeypatch.setattr(mlflow, "MlflowClient", refused)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with pytest.raises(EvalError, match="ConnectionRefusedError: nobody listens"):
        Tracker("http://127.0.0.1:9")
    assert settings == {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize("uri", ["sqlite:////no/such/folder/gates.db", "nonsense://x"])
def test_a_store_that_cannot_be_opened_is_refused_before_the_run(uri):
    with pytest.raises(EvalError, match=f"MLflow store {uri}"):
        Tracker(uri)
