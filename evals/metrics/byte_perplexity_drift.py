"""The rise of perplexity per byte, which can be compared over tokenizers and languages."""

import math

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, SEQ2SEQ
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.perplexity import BYTE, relative_rise, rise_problem
from compression_gates.evals.metrics.reading import Reading, Scored
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import PLAIN, RISE


def byte_perplexity_drift(baseline: Scored, candidate: Scored) -> Reading:
    """Relative rise of byte perplexity: ``exp(sum(NLL' - NLL) / bytes) - 1``."""
    return relative_rise(baseline, candidate, BYTE)


register(
    Metric(
        name="byte_perplexity_drift",
        title="byte perplexity",
        protocol_title="perplexity",
        promise="byte perplexity rises by at most {limit}",
        unit=RISE,
        level_unit=PLAIN,
        function=byte_perplexity_drift,
        scored="text",
        needs={CAUSAL: ("text",), SEQ2SEQ: ("text",)},
        order=12,
        counted="documents",
        ceiling=1.0,
        from_items=math.expm1,
        check_limit=rise_problem,
    )
)
