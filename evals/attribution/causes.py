"""Differences between two configurations that change what a model computes."""

from compression_gates.evals.checkpoints.findings import CheckpointComparison

CAUSES = (
    "normalization", "activation", "scaling", "rope", "attention pattern", "heads",
    "expert routing", "tied output layer", "separate output layer", "padding token",
    "first token of the decoder", "setting", "GGUF header",
)  # fmt: skip
"""Kinds of findings, of :data:`evals.checkpoints.findings.KINDS`, that are named as causes."""
DEPTH = "num_hidden_layers"
"""The only size that can differ while all modules are the same, as in ALBERT."""


def configuration_causes(comparison: CheckpointComparison | None) -> tuple[str, ...]:
    """Return the texts of the findings that change the forward pass and are not in a module.

    Args:
        comparison: of the two checkpoints; None if they were not compared.
    """
    if comparison is None:
        return ()
    return tuple(
        finding.text
        for finding in comparison.findings
        if finding.kind in CAUSES or (finding.kind == "size" and DEPTH in finding.text)
    )
