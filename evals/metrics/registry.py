"""The registry of metrics of this package, of installed distributions and of users.

A user-defined metric is a module that calls :func:`register`, and ``test_NAME`` in a gate file. An
installed distribution names such a module under the entry point group :data:`GROUP`.
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
"""Entry point group; each entry names a module that registers metrics, or a metric."""


class Registry(Mapping[str, Metric]):
    """Metrics by name, in the order of their columns.

    All modules of metrics are imported when the registry is first read.
    """

    def __init__(self):
        self._metrics: dict[str, Metric] = {}
        self._is_loaded = self._is_loading = False

    def add(self, metric: Metric) -> Metric:
        """Add a metric and return it.

        A metric replaces an earlier one of the same name if its function has the same module and
        qualified name, as when a notebook cell is run again.

        Raises:
            EvalError: there is another metric of that name, or the object is not a metric.
        """
        if not isinstance(metric, Metric):
            raise EvalError(f"{metric!r} is not a Metric")
        known = self._metrics.get(metric.name, metric)
        of_package = _origin(known).startswith(f"{__package__}.")
        if known != metric and (of_package or _origin(known) != _origin(metric)):
            origins = " and ".join(map(_origin, (known, metric)))
            raise EvalError(f"two metrics are named {metric.name}: {origins}")
        self._metrics[metric.name] = metric
        self._metrics = dict(sorted(self._metrics.items(), key=lambda item: item[1].order))
        return metric

    def _loaded(self) -> dict[str, Metric]:
        # A module that is loaded here may itself read the registry.
        if not self._is_loaded and not self._is_loading:
            self._is_loading = True
            try:
                for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
                    import_module(f"{__package__}.{file.stem}")
                # All are loaded before any is added, so that a broken one raises in every call.
                loaded = [(entry, _load(entry)) for entry in entry_points(group=GROUP)]
                for entry, metric in loaded:
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
    """Convert errors into an EvalError that names the entry point and its distribution."""
    try:
        yield
    except Exception as error:
        owner = entry.dist.name if entry.dist else "an unknown distribution"
        raise EvalError(
            f"entry point {entry.name} = {entry.value} of {owner}: {kind_and_line(error)}"
        ) from error


def _origin(metric: Metric) -> str:
    """Return module and qualified name of a metric's function, or of a callable object's class."""
    function = metric.function
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


METRICS = Registry()
register = METRICS.add
