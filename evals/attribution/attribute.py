"""Attribute the divergence of a candidate from its baseline to the candidate's modules.

The modules of the candidate are swapped into the baseline one at a time, and the divergence that
each of them causes is measured on a small part of the data, in two rounds: first the blocks and
everything outside of blocks, then the modules of the two blocks that cause most. Modules that are
equal on both sides cause none, and are not run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from compression_gates.evals.attribution.attribution import Attribution, Share, not_found
from compression_gates.evals.attribution.predictions import (
    Divergence,
    divergence_from,
    small_part,
)
from compression_gates.evals.attribution.swapping import (
    NotSwappableError,
    check_fits,
    is_same,
    swapped,
)
from compression_gates.evals.attribution.units import (
    Unit,
    at_most,
    block_names,
    modules_in,
    with_tied_joined,
)
from compression_gates.evals.attribution.weights import compare_tensors, remarkable
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import listed
from compression_gates.evals.models.loading import PROBED, Loaded

DIVIDED = 2
"""Number of blocks whose modules are swapped one at a time."""
PASSES_PER_UNIT = 3
"""Largest number of passes for each block, and each module of the divided blocks."""


@torch.inference_mode()
def attribute(
    loaded: Loaded,
    candidate: PreTrainedModel,
    data: DataSet,
    batch_tokens: int,
    configuration: Sequence[str] = (),
) -> Attribution:
    """Return which modules of a candidate cause its divergence from its baseline.

    Args:
        loaded: the baseline. It is changed while this function runs, and restored exactly.
        candidate: the candidate.
        data: data with predictions to compare; their first items are used.
        batch_tokens: number of tokens of a padded batch.
        configuration: differences between the configurations that change the computation.
    """
    baseline = loaded.model
    blocks = [block_names(model) for model in (baseline, candidate)]
    if blocks[0] != blocks[1]:
        counts = [f"{len(names)} block{'s' * (len(names) != 1)}" for names in blocks]
        return not_found(
            f"modules cannot be swapped, because the candidate has {counts[1]} and the baseline "
            f"{counts[0]}",
            configuration,
        )
    part, tokens = small_part(loaded, data)
    with divergence_from(loaded, part, batch_tokens) as divergence:
        swaps = _Swaps(loaded, candidate, divergence, bool(configuration))
        swaps.whole = swaps.count(divergence(candidate))
        if swaps.whole == 0:
            return not_found(
                f"the candidate's predictions of the first {tokens:,} tokens are the baseline's",
                configuration,
            )
        measured = swaps.two_rounds(blocks[0])
    if not measured:
        why = listed(swaps.not_swapped, "; ", shown=1)
        return not_found(f"no module of the candidate fits into the baseline: {why}", configuration)
    shares, blocks = (swaps.shares(items) for items in (measured, swaps.divided))
    comparisons = compare_tensors(baseline, candidate)
    return Attribution(
        modules=shares,
        blocks=blocks,
        divergence=swaps.whole,
        passes=swaps.passes,
        data=data.name,
        tokens=tokens,
        configuration=tuple(configuration),
        not_swapped=tuple(swaps.not_swapped),
        hints=tuple(remarkable(comparisons)),
        tensors=tuple(
            comparison.as_dict()
            for name, comparison in comparisons.items()
            if shares and name.rpartition(".")[0] == shares[0].name.partition(" ")[0]
        ),
    )


def _sortable(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _ratio(value: float, whole: float) -> float:
    return value / whole if math.isfinite(value) and math.isfinite(whole) else math.nan


Measured = list[tuple[Unit, float]]
"""Units, and the mean divergence that each of them causes alone."""


@dataclass
class _Swaps:
    """Measures units of a candidate inside its baseline.

    Attributes:
        loaded: the baseline.
        candidate: the candidate.
        divergence: scores a model.
        run_equal: whether units with equal weights are run as well.
        passes: number of passes so far; the first one was that of the baseline.
        not_swapped: units that do not fit, with the reason.
        fits: units that are known to fit.
        divided: the blocks whose modules were measured one at a time.
        whole: divergence of the whole candidate.
    """

    loaded: Loaded
    candidate: PreTrainedModel
    divergence: Divergence
    run_equal: bool
    passes: int = 1
    not_swapped: list[str] = field(default_factory=list)
    fits: set[Unit] = field(default_factory=set)
    divided: Measured = field(default_factory=list)
    whole: float = math.nan

    def count(self, value: float) -> float:
        """Count a pass, and return its result."""
        self.passes += 1
        return value

    def two_rounds(self, blocks: Sequence[str]) -> Measured:
        """Return the divergences of all modules outside of blocks, of the modules of the
        :data:`DIVIDED` blocks that cause most, and of the other blocks as a whole."""
        baseline = self.loaded.model
        inside = {name: modules_in(baseline, name) for name in blocks}
        fewest = sum(sorted(map(len, inside.values()))[:DIVIDED])
        outside = at_most(modules_in(baseline, without=blocks), 2 * (len(blocks) + fewest) - 2)
        units = with_tied_joined(
            [*outside, *(Unit(name, (name,)) for name in blocks)], baseline, self.candidate
        )
        first = self._measure(units)
        worst = [item for item in first if set(item[0].modules) <= set(blocks) and item[1] != 0]
        worst = sorted(worst, key=lambda item: -_sortable(item[1]))[:DIVIDED]
        measured = [item for item in first if item not in worst]
        for unit, value in worst:
            modules = [m for name in unit.modules for m in inside[name]]
            modules = with_tied_joined(modules, baseline, self.candidate)
            parts = self._fitting(modules, unit)
            if parts == [unit]:
                measured.append((unit, value))
                continue
            self.divided.append((unit, value))
            measured += self._measure(parts)
        return measured

    def shares(self, measured: Measured) -> tuple[Share, ...]:
        """Return the units that cause any divergence, the one that causes most first."""
        shares = [
            Share(unit.name, value, _ratio(value, self.whole))
            for unit, value in measured
            if value != 0
        ]
        return tuple(sorted(shares, key=lambda share: -_sortable(share.divergence)))

    def _measure(self, units: Sequence[Unit]) -> Measured:
        """Return the divergences of the units that fit into the baseline."""
        measured = []
        with tqdm(units, "attribution", unit="module", leave=False, disable=None) as bar:
            for unit in bar:
                try:
                    measured.append((unit, self._divergence(unit)))
                except NotSwappableError as error:
                    self.not_swapped.append(str(error))
        return measured

    def _divergence(self, unit: Unit) -> float:
        """Return the divergence that a unit causes.

        Raises:
            NotSwappableError: it does not fit into the baseline.
        """
        baseline = self.loaded.model
        self._check_fits(unit)
        if not self.run_equal and self._is_same(unit):
            return 0.0
        with swapped(baseline, self.candidate, unit):
            return self.count(self.divergence(baseline))

    def _check_fits(self, unit: Unit) -> None:
        if unit in self.fits:
            return

        def probe() -> None:
            rows = self.loaded.model.get_input_embeddings().num_embeddings
            ids = torch.arange(min(PROBED, rows), device=self.loaded.device)[None]
            self.loaded.model(**self.loaded.inputs(ids), **self._without_cache)

        check_fits(self.loaded.model, self.candidate, unit, probe)
        self.fits.add(unit)

    @property
    def _without_cache(self) -> dict[str, bool]:
        return {"use_cache": False} if self.loaded.model.can_generate() else {}

    def _is_same(self, unit: Unit) -> bool:
        sides = self.loaded.model, self.candidate
        pairs = [[model.get_submodule(name) for model in sides] for name in unit.modules]
        before, after = (dict(model.named_parameters(remove_duplicate=False)) for model in sides)
        return all(is_same(*pair) for pair in pairs) and all(
            torch.equal(before[name], after[name]) for name in unit.parameters
        )

    def _fitting(self, modules: Sequence[Unit], block: Unit) -> list[Unit]:
        """Return the modules of a block, with those that do not fit into the baseline replaced by
        the smallest module around them that does, which may be the block."""
        parts: list[Unit] = []
        for module in modules:
            parts.append(self._smallest_fitting(module, block))
        roots = {name for part in parts for name in part.modules if part not in modules}
        kept = [
            part
            for part in dict.fromkeys(parts)
            if not any(_is_inside(name, root) for name in part.names for root in roots)
        ]
        return kept

    def _smallest_fitting(self, module: Unit, block: Unit) -> Unit:
        while True:
            try:
                self._check_fits(module)
                return module
            except NotSwappableError:
                parent = module.names[0].rpartition(".")[0]
                if parent in ("", *block.modules):
                    return block
                module = Unit(parent, (parent,))


def _is_inside(name: str, root: str) -> bool:
    return name.startswith(f"{root}.")
