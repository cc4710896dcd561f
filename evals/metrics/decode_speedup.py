"""Speedup of generation: the time of each further token after a prompt."""

from collections.abc import Mapping

from compression_gates.evals.checkpoints.checkpoint import CAUSAL
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.metrics.speedup import MILLISECONDS, speedup_problem, timed_result
from compression_gates.evals.metrics.units import TIMES
from compression_gates.evals.scores import Pair
from compression_gates.evals.scoring.protocols import DECODE, DecodeProtocol


def decode_speedup_of_pair(pair: Pair, weights: Mapping[str, float]) -> MetricResult:
    """Return the speedup of one generated token at batch 1."""
    rows = DecodeProtocol().rows
    names = {
        "seconds": "one token at batch 1",
        "batch": f"one token of each of {rows} prompts",
        "first": "time to the first token at batch 1",
    }
    return timed_result(pair.run(DECODE), names)


register(Metric(
    name="decode_speedup", title="decode", label="decoding speed",
    promise="a token is generated at least {limit} as fast", unit=TIMES, level_unit=MILLISECONDS,
    function=decode_speedup_of_pair, needs={CAUSAL: ()}, order=61.2, at_most=False, quality=False,
    counted="timed pairs", workload=DECODE, sequential=True, neutral=1.0,
    check_limit=speedup_problem,
))  # fmt: skip
