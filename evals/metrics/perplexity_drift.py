"""The rise of perplexity per token."""

import math

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, SEQ2SEQ
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.perplexity import TOKEN, relative_rise, rise_problem
from compression_gates.evals.metrics.reading import Reading, Scored
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import PLAIN, RISE


def perplexity_drift(baseline: Scored, candidate: Scored) -> Reading:
    """Relative rise of token perplexity: ``exp(mean(NLL' - NLL)) - 1``."""
    return relative_rise(baseline, candidate, TOKEN)


register(
    Metric(
        name="perplexity_drift",
        title="perplexity",
        promise="perplexity rises by at most {limit}",
        unit=RISE,
        level_unit=PLAIN,
        function=perplexity_drift,
        scored="text",
        needs={CAUSAL: ("text",), SEQ2SEQ: ("text",)},
        lm_eval=("word_perplexity", "byte_perplexity", "perplexity"),
        order=10,
        counted="documents",
        ceiling=1.0,
        from_items=math.expm1,
        check_limit=rise_problem,
    )
)
