"""All metrics by name: those of this package, those of installed ones, and those that a module
registers by itself.

A metric of one's own is a module that calls :func:`register`, and ``test_NAME`` in a gate file. An
installed package names such a module under the entry point group :data:`GROUP`.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.metric import Metric

GROUP = "compression_gates.metrics"
"""Entry points of installed packages; each names a module that registers metrics, or a metric."""


class Registry(Mapping[str, Metric]):
    """Metrics in the order of their columns. All modules of metrics are imported when it is first
    read, so that none can be left out."""

    def __init__(self):
        self._metrics: dict[str, Metric] = {}
        self._is_loaded = False

    def add(self, metric: Metric) -> Metric:
        """Adds a metric, and returns it.

        Raises:
            ValueError: there is another one of that name.
        """
        known = self._metrics.setdefault(metric.name, metric)
        if known is not metric:
            modules = " and ".join(one.function.__module__ for one in (known, metric))
            raise ValueError(f"two metrics are named {metric.name}: of {modules}")
        self._metrics = dict(sorted(self._metrics.items(), key=lambda item: item[1].order))
        return metric

    def _loaded(self) -> dict[str, Metric]:
        if not self._is_loaded:
            self._is_loaded = True
            for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
                import_module(f"{__package__}.{file.stem}")
            for entry in entry_points(group=GROUP):
                self._load(entry)
        return self._metrics

    def _load(self, entry: EntryPoint) -> None:
        try:
            found = entry.load()
        except Exception as error:
            raise EvalError(f"entry point {entry.name} = {entry.value}: {error}") from error
        if isinstance(found, Metric):
            self.add(found)

    def __getitem__(self, name: str) -> Metric:
        return self._loaded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())


METRICS = Registry()
register = METRICS.add
