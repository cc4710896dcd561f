"""Attribute the divergence of a candidate from its baseline to the candidate's modules.

The modules of the candidate are swapped into the baseline one at a time, and the divergence that
each of them causes is measured on a small part of the data, in two rounds: first the blocks and
everything outside of blocks, then the modules of the two blocks that cause most. Modules that are
equal on both sides cause none, and are not run. A budget limits the passes and the time; see
:mod:`compression_gates.evals.attribution.search` for what is left out.
"""

from collections.abc import Sequence

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from compression_gates.evals.attribution.attribution import Attribution, not_found
from compression_gates.evals.attribution.budget import Budget
from compression_gates.evals.attribution.predictions import divergence_from, small_part
from compression_gates.evals.attribution.search import FEWEST_PASSES, Search
from compression_gates.evals.attribution.swap_units import block_names
from compression_gates.evals.attribution.tensor_comparison import compare_tensors, remarkable
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import listed
from compression_gates.evals.metrics.units import counted
from compression_gates.evals.models.loading import Loaded

TENSOR_SECONDS = 120.0
"""Time limit of the comparison of tensors."""


@torch.inference_mode()
def attribute(
    loaded: Loaded,
    candidate: PreTrainedModel,
    data: DataSet,
    batch_tokens: int,
    configuration: Sequence[str] = (),
    budget: Budget | None = None,
) -> Attribution:
    """Return which modules of a candidate cause its divergence from its baseline.

    Args:
        loaded: the baseline. It is changed while this function runs, and restored exactly.
        candidate: the candidate.
        data: data with predictions to compare; their first items are used.
        batch_tokens: number of tokens of a padded batch.
        configuration: differences between the configurations that change the computation.
        budget: limits of passes and time; the usual ones by default. Of a search that ends at a
            limit, what was measured until then is returned.
    """
    budget = budget or Budget()
    baseline = loaded.model
    blocks = [block_names(model) for model in (baseline, candidate)]
    if blocks[0] != blocks[1]:
        counts = [counted(len(names), "block") for names in blocks]
        return not_found(
            f"modules cannot be swapped, because the candidate has {counts[1]} and the baseline "
            f"{counts[0]}",
            configuration,
        )
    part, tokens = small_part(loaded, data)
    bar = tqdm(
        desc=f"attribution (at most {budget.seconds / 60:.3g} min)",
        total=2, unit="pass", leave=False, disable=None,
    )  # fmt: skip
    with bar, divergence_from(loaded, part, batch_tokens) as divergence:
        budget.used += 1
        bar.update()
        search = Search(loaded, candidate, divergence, bool(configuration), budget, bar)
        search.whole = search.score(candidate)
        bar.update()
        if search.whole == 0:
            return not_found(
                f"the candidate's predictions of the first {tokens:,} tokens are the baseline's",
                configuration,
            )
        if budget.planned < FEWEST_PASSES:
            return not_found(f"modules were not swapped, because {budget.reason()}", configuration)
        measured = search.run(blocks[0])
    if not measured:
        return not_found(_why_none(search), configuration)
    shares, blocks = (search.shares(items) for items in (measured, search.divided))
    worst = shares[0].name.partition(" ")[0] if shares else ""
    start = budget.clock()
    comparisons = compare_tensors(baseline, candidate, worst, TENSOR_SECONDS)
    if budget.clock() - start > TENSOR_SECONDS:
        limit = f"{TENSOR_SECONDS / 60:g} minutes"
        search.limited.append(f"tensors were compared for {limit}, and further ones left out")
    return Attribution(
        modules=shares,
        blocks=blocks,
        divergence=search.whole,
        passes=budget.used,
        data=data.name,
        tokens=tokens,
        configuration=tuple(configuration),
        not_swapped=tuple(search.not_swapped),
        hints=tuple(remarkable(comparisons)),
        tensors=tuple(
            comparison.as_dict()
            for name, comparison in comparisons.items()
            if worst and name.rpartition(".")[0] == worst
        ),
        limited=tuple(search.limited),
    )


def _why_none(search: Search) -> str:
    """Return why no module was measured."""
    if search.not_swapped:
        why = listed(search.not_swapped, "; ", shown=1)
        return f"no module of the candidate fits into the baseline: {why}"
    return listed(search.limited, "; ") or "all modules are equal on both sides"
