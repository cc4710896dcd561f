"""What makes pytest run the gates: options, parameters, fixtures, hand-over to the report."""

import functools
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from evals import report
from evals.checkpoints.findings import CheckpointComparison
from evals.coverage import Coverage
from evals.errors import EvalError
from evals.foreign_text import on_one_line, on_terminal
from evals.gate import METRICS, STRICT
from evals.reading import Reading
from fixtures import cases, options, plan, plugin, propose
from fixtures.given import unjudged
from fixtures.lab import is_timed
from fixtures.matrix import Candidate
from fixtures.planted import Planted
from fixtures.preflight import notes
from fixtures.summary import (
    COMPARISON,
    COVERAGE,
    ITEM_VALUES,
    METHOD_NOTES,
    REGRESSIONS,
    UNCHANGED,
    Summary,
)

# Before torch is imported: threads that spin while they wait make a run ten times slower as soon
# as anything else wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What torchao has torch say whenever transformers looks whether it is there.
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)

GATES = Path(__file__).parent / "tests" / "gates"
RUN = pytest.StashKey[cases.Run]()
SESSION = pytest.StashKey[pytest.Session]()
READING = pytest.StashKey[Reading]()
COMPARED = pytest.StashKey[CheckpointComparison]()
STORE_NOTES = "store_notes"
TOUCHED = pytest.StashKey[Sequence[Coverage]]()
NOTES = pytest.StashKey[Sequence[str]]()


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Refuses to go on where pytest does not know the options yet: it takes their values for test
    folders, and would run the code in them."""
    if not pluginmanager.hasplugin(plugin.__name__):
        raise pytest.UsageError(plugin.UNKNOWN_OPTIONS)


def pytest_configure(config: pytest.Config) -> None:
    here = config.invocation_params.dir
    paths = [Path(here, arg.partition("::")[0]).resolve() for arg in config.args]
    if any(GATES.is_relative_to(path) or path.is_relative_to(GATES) for path in paths):
        stray = next((path for path in paths if path.is_file() and path.suffix != ".py"), None)
        if stray is not None:
            told = on_one_line(f"{stray} is no test file; --text takes one file")
            raise pytest.UsageError(told)
        try:
            config.stash[RUN] = options.run_of(config)
        except cases.USER_ERRORS as error:
            _not_started(config, str(error))
            raise pytest.UsageError(on_terminal(str(error))) from error


def _not_started(config: pytest.Config, reason: str) -> None:
    """Says in the report's folder that there is no report, in place of an earlier one."""
    option = config.option
    if option.report and not hasattr(config, "workerinput"):
        directory = Path(option.report)
        compared = bool(option.since) and Path(option.since).resolve() == directory.resolve()
        with suppress(OSError):
            report.write_not_started(directory, reason, keep=compared)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[SESSION] = session


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands over what its store had to make again."""
    config = session.config
    if RUN in config.stash and hasattr(config, "workeroutput"):
        config.workeroutput[STORE_NOTES] = config.stash[RUN].lab.bench.store.notes


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error) -> None:
    if RUN in node.config.stash:
        told = getattr(node, "workeroutput", {}).get(STORE_NOTES, ())
        node.config.stash[RUN].lab.bench.store.notes.extend(told)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if RUN not in metafunc.config.stash or not metafunc.definition.path.is_relative_to(GATES):
        return
    if "planted" in metafunc.fixturenames:
        metafunc.parametrize(
            "planted", metafunc.config.stash[RUN].planted(), indirect=True, ids=lambda c: c.name
        )
    if "gate" not in metafunc.fixturenames:
        return
    metric = metafunc.function.__name__.removeprefix("test_")
    if metric not in METRICS:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: test_{metric} names no metric")
    metafunc.parametrize(
        "case", metafunc.config.stash[RUN].cases(metric), indirect=True, ids=lambda c: c.name
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A metric that the profile has no gate on leaves no case, not a skipped one."""
    empty = [
        item
        for item in items
        if item.path.is_relative_to(GATES)
        and _parameters(item).keys() & {"case", "planted"}
        and _candidate(item) is None
    ]
    config.hook.pytest_deselected(items=empty)
    items[:] = [item for item in items if item not in empty]


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What the data do not allow to judge is said before anything else."""
    if RUN not in config.stash:
        return []
    return [on_one_line(f"not judged: {line}") for line in unjudged(config.stash[RUN])]


@pytest.fixture
def record(record_property) -> Callable[[str, object], None]:
    """Leaves a number or a text with the report and the JUnit file."""

    def keep(name: str, value: object) -> None:
        record_property(name, on_terminal(value) if isinstance(value, str) else value)

    return keep


@pytest.fixture
def case(request: pytest.FixtureRequest, record) -> cases.Case:
    """One candidate and one gate."""
    cases.identify(request.param, record)
    return request.param


@pytest.fixture
def pair(case: cases.Case, request: pytest.FixtureRequest, record):
    """The baseline's and the candidate's scores, measured now if the store has none."""
    with cases.told_in_one_line(case.candidate.name):
        found = request.config.stash[RUN].lab.pair(case.candidate)
    if found.comparison is not None:
        request.node.stash[COMPARED] = found.comparison
    request.node.stash[TOUCHED] = found.coverage
    record("form", found.form)
    record(UNCHANGED, found.is_unchanged)
    request.node.stash[NOTES] = tuple(found.notes)
    cases.identify_origin(case, found, record)
    return found


@pytest.fixture
def planted(request: pytest.FixtureRequest, record) -> Planted:
    """A checkpoint with a known defect."""
    return Planted(request.param, request.config.stash[RUN].lab, record)


@pytest.fixture
def gate(case: cases.Case, request: pytest.FixtureRequest, record) -> cases.Judge:
    """Judges a reading: ``gate.holds(reading)``."""
    policy, node = request.config.stash[RUN].policy, request.node
    known = bool(case.candidate.known_failure(case.gate.metric))
    rerun = cases.rerun(node.nodeid, request.config.option, policy, known)
    keep = functools.partial(node.stash.__setitem__, READING)
    return cases.Judge(case, policy, rerun, record, keep)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Hands what was read over with the report, from whichever worker: the items that got worse in
    a failing case, and the values that a later run is compared with. Not as properties, which would
    put them into JUnit's file. A failing case gets the reason as its message."""
    made = yield
    if call.when != "call":
        return made
    option = item.config.option
    if COMPARED in item.stash:
        setattr(made, COMPARISON, item.stash[COMPARED].to_json())
    if NOTES in item.stash:
        setattr(made, METHOD_NOTES, list(item.stash[NOTES]))
    if TOUCHED in item.stash:
        setattr(made, COVERAGE, [asdict(part) for part in item.stash[TOUCHED]])
    if READING in item.stash:
        reading = item.stash[READING]
        del item.stash[READING]
        if not made.passed:
            setattr(made, REGRESSIONS, asdict(reading.worst))
        if reading.items is not None and (option.report or option.since):
            setattr(made, ITEM_VALUES, reading.items.to_text())
    if call.excinfo is not None and call.excinfo.errisinstance(cases.GateFailed):
        crash = getattr(made.longrepr, "reprcrash", None)
        if crash is not None:
            crash.message = str(call.excinfo.value).partition("\n")[0]
    return made


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function):
    """A pair that cannot be compared is said in one line."""
    case = _case(pyfuncitem)
    if case is None:
        return (yield)
    with cases.told_in_one_line(case.candidate.name):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Says what the gates can tell, then measures everything first, with progress, where one
    process runs the cases in order."""
    config = session.config
    alone = not hasattr(config, "workerinput") and not config.getoption("tx", None)
    chosen: list[Candidate] = []
    if alone and not config.option.collectonly and not session.testsfailed:
        chosen = list({c.name: c for c in filter(None, map(_candidate, session.items))}.values())
    if not chosen:
        return None
    run = config.stash[RUN]
    lab = run.lab
    lab.inspect(chosen)
    capture = config.pluginmanager.getplugin("capturemanager")
    terminal = config.pluginmanager.getplugin("terminalreporter")
    with capture.global_and_fixture_disabled():
        for line in notes(chosen):
            terminal.write_line(on_one_line(line))
        judged = list(filter(None, map(_case, session.items)))
        found, problems = plan.planned(lab, judged, run.candidates)
        problems = [*lab.refusals(chosen), *problems]
        if config.option.plan:
            width = config.get_terminal_writer().fullwidth
            outline = plan.outline(lab.profile, judged) or plan.table(found, width)
            terminal.write_line(on_terminal(f"\n{outline}"))
            for problem in problems:
                terminal.write_line(on_one_line(f"ERROR: {problem}"), red=True)
            session.testsfailed = len(problems)
            return True
        for row in found:
            if row.resolution.known and not row.resolution.enough:
                terminal.write_line(on_one_line(f"too few items   {row}"))
        lab.measure(chosen, timed={c.name for c in judged if is_timed(c.gate)})
    return None


def _parameters(item: pytest.Item) -> dict[str, object]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def _candidate(item: pytest.Item) -> Candidate | None:
    """What an item judges."""
    case = _case(item)
    if case is not None:
        return case.candidate
    planted = _parameters(item).get("planted")
    return planted if isinstance(planted, Candidate) else None


def _case(item: pytest.Item) -> cases.Case | None:
    case = _parameters(item).get("case")
    return case if isinstance(case, cases.Case) else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """All cases of a candidate go to one worker, so that each model is loaded by one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByCandidate(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return (
                nodeid.partition("[")[2] if Path(nodeid).is_relative_to("tests/gates") else nodeid
            )

    return ByCandidate(config, log)


def pytest_terminal_summary(terminalreporter, exitstatus: int, config: pytest.Config) -> None:
    if RUN not in config.stash:
        return
    run = config.stash[RUN]
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        for line in run.choices():
            terminalreporter.write_line(on_one_line(line))
    summary = Summary(run, terminalreporter.stats)
    if not summary.entries and not summary.controls and not summary.defects:
        if not config.option.plan and not config.option.collectonly:
            _not_started(config, "no case was run")
        return
    terminalreporter.section("gates")
    verbose = config.get_verbosity() > 0
    text = summary.text(config.get_terminal_writer().fullwidth, verbose)
    terminalreporter.write_line(on_terminal(text))
    option = config.option
    unproven = run.policy.name == STRICT and bool(summary.unjudged)
    if unproven:
        why = on_one_line(
            f"FAILED by --strict, which accepts nothing unjudged: {'; '.join(summary.unjudged)}"
        )
        terminalreporter.write_line(why, red=True)
    if (summary.regressed or unproven) and config.stash[SESSION].exitstatus == pytest.ExitCode.OK:
        config.stash[SESSION].exitstatus = pytest.ExitCode.TESTS_FAILED
    try:
        if option.report:
            terminalreporter.write_line(summary.write(Path(option.report)))
        if option.propose_limits:
            told = propose.write(
                Path(option.propose_limits), run.lab, option.profile or "default",
                summary.judged_cases(), option.propose_rate, run.policy.name == STRICT,
            )  # fmt: skip
            terminalreporter.write_line(told)
    except (EvalError, OSError) as error:
        terminalreporter.write_line(on_one_line(f"ERROR: {error}"), red=True)
        config.stash[SESSION].exitstatus = pytest.ExitCode.TESTS_FAILED
