"""The rise of perplexity per word, which can be compared over tokenizers."""

import math

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, SEQ2SEQ
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.perplexity import WORD, relative_rise, rise_problem
from compression_gates.evals.metrics.reading import Reading, Scored
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import PLAIN, RISE


def word_perplexity_drift(baseline: Scored, candidate: Scored) -> Reading:
    """Relative rise of word perplexity: ``exp(sum(NLL' - NLL) / words) - 1``."""
    return relative_rise(baseline, candidate, WORD)


register(
    Metric(
        name="word_perplexity_drift",
        title="word perplexity",
        protocol_title="perplexity",
        promise="word perplexity rises by at most {limit}",
        unit=RISE,
        level_unit=PLAIN,
        function=word_perplexity_drift,
        scored="text",
        needs={CAUSAL: ("text",), SEQ2SEQ: ("text",)},
        order=11,
        counted="documents",
        ceiling=1.0,
        from_items=math.expm1,
        check_limit=rise_problem,
    )
)
