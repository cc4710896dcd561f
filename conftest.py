"""What makes pytest run the gates: options, parameters, fixtures, hand-over to the report."""

import pkgutil
from pathlib import Path

import pytest

import compression

# Since Python 3.14 the standard library may have imported its own ``compression`` already.
compression.__path__ = pkgutil.extend_path(compression.__path__, compression.__name__)

from compression.errors import CompressionError  # noqa: E402
from evals.bench import Bench  # noqa: E402
from evals.errors import EvalError  # noqa: E402
from evals.store import Store  # noqa: E402
from fixtures import cases  # noqa: E402
from fixtures.lab import Lab  # noqa: E402
from fixtures.matrix import candidates, with_checkpoints  # noqa: E402
from fixtures.profile import ProfileError, read_profile  # noqa: E402

USER_ERRORS = (CompressionError, EvalError, ProfileError)
GATES = Path(__file__).parent / "tests" / "gates"
RUN = pytest.StashKey[cases.Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gates", "gates of compressed language models")
    add = group.addoption
    add("--profile", metavar="NAME_OR_FILE", help="what to judge and by which limits")
    add("--baseline", metavar="ID_OR_DIR", help="the uncompressed model, in place of the profile's")
    add(
        "--candidate", metavar="ID_OR_DIR", nargs="+", action="extend", default=[],
        help="compressed checkpoints to judge, in place of the profile's recipes",
    )  # fmt: skip
    add("--text", metavar="FILE", help="text for perplexity and divergence, with --baseline")
    add("--store", metavar="DIR", default=".gates", help="measurements (default: %(default)s)")
    add("--report", metavar="DIR", help="write report.md and report.jsonl there")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    add("--trust-remote-code", action="store_true", help="run code that a checkpoint brings")


def pytest_configure(config: pytest.Config) -> None:
    paths = [Path(config.invocation_params.dir, arg.partition("::")[0]) for arg in config.args]
    if not any(GATES.is_relative_to(path) or path.is_relative_to(GATES) for path in paths):
        return
    option = config.option
    try:
        if not option.baseline:
            for name in ("candidate", "text"):
                if getattr(option, name):
                    raise ProfileError(f"--{name} needs --baseline ID_OR_DIR")
            profile = read_profile(option.profile or "default")
            found = candidates(profile)
        else:
            profile = read_profile(option.profile or "checkpoints")
            profile, found = with_checkpoints(
                profile, option.baseline, option.candidate, option.text
            )
        worker = getattr(config, "workerinput", {})
        bench = Bench(
            Store(Path(option.store)),
            cases.device(option.device, worker.get("workerid", "gw0")),
            worker.get("workercount", 1),
            option.trust_remote_code,
        )
        if option.report:
            cases.check_writable(Path(option.report))
    except USER_ERRORS as error:
        raise pytest.UsageError(str(error)) from error
    # pytest's own --strict; here it also asks for proof.
    policy = cases.Policy(strict=bool(config.getini("strict")))
    config.stash[RUN] = cases.Run(profile, found, Lab(profile, bench), policy)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "gate" not in metafunc.fixturenames or RUN not in metafunc.config.stash:
        return
    metric = metafunc.function.__name__.removeprefix("test_")
    metafunc.parametrize(
        "case", metafunc.config.stash[RUN].cases(metric), indirect=True, ids=lambda c: c.name
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A metric that the profile has no gate on leaves no case, not a skipped one."""
    kept = [item for item in items if isinstance(_case(item), cases.Case | None)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture
def case(request: pytest.FixtureRequest) -> cases.Case:
    """One candidate and one gate."""
    return request.param


@pytest.fixture
def pair(case: cases.Case, pytestconfig: pytest.Config):
    """The baseline's and the candidate's scores, measured now if the store has none."""
    try:
        return pytestconfig.stash[RUN].lab.pair(case.candidate)
    except USER_ERRORS as error:
        pytest.fail(f"{case.candidate.name}: {error}", pytrace=False)


@pytest.fixture
def gate(case: cases.Case, request: pytest.FixtureRequest, record_property) -> cases.Judge:
    """Judges a reading: ``gate.holds(reading)``."""
    options = request.config.option
    rerun = cases.rerun(request.node.nodeid, options)
    return cases.Judge(case, request.config.stash[RUN].policy, rerun, record_property)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Measures everything first, with progress, where one process runs the cases in order."""
    config = session.config
    alone = not hasattr(config, "workerinput") and not config.getoption("tx", None)
    chosen = []
    if alone and not config.option.collectonly and not session.testsfailed:
        chosen = [case.candidate for case in map(_case, session.items) if case]
    if chosen:
        config.stash[RUN].lab.measure({candidate.name: candidate for candidate in chosen}.values())


def _case(item: pytest.Item) -> cases.Case | None:
    return getattr(item, "callspec", None) and item.callspec.params.get("case")


def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """All cases of a candidate go to one worker, so that each model is loaded by one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByCandidate(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return (
                nodeid.partition("[")[2] if Path(nodeid).is_relative_to("tests/gates") else nodeid
            )

    return ByCandidate(config, log)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if RUN not in config.stash:
        return
    run = config.stash[RUN]
    summary = cases.Summary(run, terminalreporter.stats, config.rootpath)
    if not summary.entries and not summary.controls:
        return
    terminalreporter.section("gates")
    terminalreporter.write_line(summary.text())
    if config.option.report:
        terminalreporter.write_line(summary.write(Path(config.option.report)))
