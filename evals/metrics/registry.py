"""All metrics by name: those of this package, those of installed ones, and those that a module
registers by itself.

A metric of one's own is a module that calls :func:`register`, and ``test_NAME`` in a gate file. An
installed package names such a module under the entry point group :data:`GROUP`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from compression_gates.evals.errors import EvalError, kind_and_line
from compression_gates.evals.metrics.metric import Metric

GROUP = "compression_gates.metrics"
"""Entry points of installed packages; each names a module that registers metrics, or a metric."""


class Registry(Mapping[str, Metric]):
    """Metrics in the order of their columns. All modules of metrics are imported when it is first
    read, so that none can be left out."""

    def __init__(self):
        self._metrics: dict[str, Metric] = {}
        self._is_loaded = self._is_loading = False

    def add(self, metric: Metric) -> Metric:
        """Adds a metric, and returns it.

        A metric whose function has the same module and qualified name replaces the earlier one of
        its name, as when the cell of a notebook is run again.

        Raises:
            EvalError: there is another one of that name, or it is no metric.
        """
        if not isinstance(metric, Metric):
            raise EvalError(f"{metric!r} is no Metric")
        known = self._metrics.get(metric.name, metric)
        of_package = _origin(known).startswith(f"{__package__}.")
        if known != metric and (of_package or _origin(known) != _origin(metric)):
            origins = " and ".join(map(_origin, (known, metric)))
            raise EvalError(f"two metrics are named {metric.name}: of {origins}")
        self._metrics[metric.name] = metric
        self._metrics = dict(sorted(self._metrics.items(), key=lambda item: item[1].order))
        return metric

    def _loaded(self) -> dict[str, Metric]:
        # A module that is loaded here may read the metrics that are known so far.
        if not self._is_loaded and not self._is_loading:
            self._is_loading = True
            try:
                for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
                    import_module(f"{__package__}.{file.stem}")
                # All are loaded before any is added: where one is broken, the next call says so
                # again.
                found = [(entry, _load(entry)) for entry in entry_points(group=GROUP)]
                for entry, metric in found:
                    if isinstance(metric, Metric):
                        with _named(entry):
                            self.add(metric)
                self._is_loaded = True
            finally:
                self._is_loading = False
        return self._metrics

    def __getitem__(self, name: str) -> Metric:
        return self._loaded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())


def _load(entry: EntryPoint) -> object:
    with _named(entry):
        return entry.load()


@contextmanager
def _named(entry: EntryPoint) -> Iterator[None]:
    """Errors become EvalErrors that name the entry point and its distribution."""
    try:
        yield
    except Exception as error:
        owner = entry.dist.name if entry.dist else "an unknown distribution"
        raise EvalError(
            f"entry point {entry.name} = {entry.value} of {owner}: {kind_and_line(error)}"
        ) from error


def _origin(metric: Metric) -> str:
    """Module and qualified name of a metric's function, or of the class of a callable object."""
    function = metric.function
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


METRICS = Registry()
register = METRICS.add
