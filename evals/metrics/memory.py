"""Memory of a forward pass: weights and activations at their peak."""

from collections.abc import Mapping

from compression_gates.evals.metrics.compression_ratio import ratio_problem
from compression_gates.evals.metrics.metric import EVERY_MODEL, Metric
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, not_judged
from compression_gates.evals.metrics.units import TIMES, Unit
from compression_gates.evals.scores import Pair
from compression_gates.evals.scoring.protocols import MEMORY
from compression_gates.evals.statistics.estimate import exact


def memory_of_pair(pair: Pair, weights: Mapping[str, float]) -> MetricResult:
    """Return the peak memory of the baseline divided by the candidate's."""
    run = pair.run(MEMORY)
    if run.reason:
        return not_judged(run.reason)
    baseline, candidate = map(float, run.arrays["bytes"])
    return MetricResult(exact(baseline / candidate), baseline, candidate, kernel=run.kernel)


register(Metric(
    name="memory", title="memory", label="saving of peak memory",
    promise="the peak memory of the baseline is at least {limit} the candidate's", unit=TIMES,
    level_unit=Unit(" bytes", digits=0, flags=","),
    table_unit=Unit(" MiB", digits=2, scale=2**-20), function=memory_of_pair, needs=EVERY_MODEL,
    order=60.5, at_most=False, quality=False, counted="", workload=MEMORY, neutral=1.0,
    check_limit=ratio_problem,
))  # fmt: skip
