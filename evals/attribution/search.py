"""Search for the modules of a candidate that cause most of its divergence, within a budget."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from compression_gates.evals.attribution.attribution import Share
from compression_gates.evals.attribution.budget import Budget
from compression_gates.evals.attribution.predictions import Divergence
from compression_gates.evals.attribution.swap_units import (
    SwapUnit,
    at_most,
    divided,
    grouped,
    modules_in,
    with_tied_joined,
)
from compression_gates.evals.attribution.swapping import (
    NotSwappableError,
    check_fits,
    is_equal,
    is_same,
    swapped,
)
from compression_gates.evals.models.loading import PROBED, Loaded

DIVIDED = 2
"""Number of blocks whose modules are swapped one at a time."""
MOST_MODULES = 32
"""Largest number of units of a block, and of units outside of blocks."""
FEWEST_PASSES = 4
"""Smallest number of passes, after those of the two models, with which a search is begun."""

Measured = list[tuple[SwapUnit, float]]
"""Units, and the mean divergence that each of them causes alone."""


@dataclass
class Search:
    """Measures units of a candidate inside its baseline.

    Attributes:
        loaded: the baseline.
        candidate: the candidate.
        divergence: scores a model.
        run_equal: whether units with equal weights are run as well.
        budget: the limits, of which the pass of the baseline is already used.
        bar: shows the progress.
        not_swapped: units that do not fit, with the reason.
        limited: what was left out because of the budget.
        fits: units that are known to fit.
        divided: the blocks whose modules were measured one at a time.
        whole: divergence of the whole candidate.
    """

    loaded: Loaded
    candidate: PreTrainedModel
    divergence: Divergence
    run_equal: bool
    budget: Budget
    bar: tqdm
    not_swapped: list[str] = field(default_factory=list)
    limited: list[str] = field(default_factory=list)
    fits: set[SwapUnit] = field(default_factory=set)
    divided: Measured = field(default_factory=list)
    whole: float = math.nan
    _members: dict[SwapUnit, list[SwapUnit]] = field(default_factory=dict)

    def score(self, model: PreTrainedModel) -> float:
        """Return the divergence of a model, and count the pass."""
        value = self.divergence(model)
        self.budget.used += 1
        return value

    def run(self, blocks: Sequence[str]) -> Measured:
        """Return the divergences of all modules outside of blocks, of the modules of the
        :data:`DIVIDED` blocks that cause most, and of the other blocks as a whole.

        If the budget does not suffice for every block, neighbouring blocks are measured together,
        and the group that causes most is divided first.
        """
        measured, is_complete = self._measure(self._first_round(blocks))
        closed: set[SwapUnit] = set()
        while is_complete and len(closed) < DIVIDED:
            open_ = [
                item
                for item in measured
                if is_of_blocks(item[0], blocks) and item[0] not in closed and item[1] != 0
            ]
            worst = min(open_, key=lambda item: -sortable(item[1]), default=None)
            if worst is None:
                break
            is_group = worst[0] in self._members
            parts = self._parts(worst[0])
            if parts is None:
                break
            if not parts or parts == [worst[0]]:
                closed.add(worst[0])
                continue
            values, is_complete = self._measure(parts)
            if not is_complete:
                break
            if not is_group:
                closed.add(worst[0])
                self.divided.append(worst)
            measured = [item for item in measured if item is not worst] + values
        return measured

    def shares(self, measured: Measured) -> tuple[Share, ...]:
        """Return the units that cause any divergence, the one that causes most first."""
        shares = [
            Share(unit.name, value, _ratio(value, self.whole))
            for unit, value in measured
            if value != 0
        ]
        return tuple(sorted(shares, key=lambda share: -sortable(share.divergence)))

    def _first_round(self, blocks: Sequence[str]) -> list[SwapUnit]:
        """Return the units outside of blocks and the blocks, which are grouped if the budget does
        not suffice for each of them and for the modules of :data:`DIVIDED` blocks."""
        baseline = self.loaded.model
        outside = at_most(modules_in(baseline, without=blocks), MOST_MODULES)
        units = [*outside, *(SwapUnit(name, (name,)) for name in blocks)]
        units = self._different(with_tied_joined(units, baseline, self.candidate))
        whole = [unit for unit in units if is_of_blocks(unit, blocks)]
        others = [unit for unit in units if unit not in whole]
        left = self.budget.planned
        largest = max((len(divided(baseline, name, MOST_MODULES)) for name in blocks), default=0)
        most = max(left - min(left // 3, DIVIDED * largest), 2)
        if len(units) <= most:
            return units
        reason = self.budget.reason()
        others = at_most(others, max(most // 4, 1)) if others else []
        groups = self._grouped(whole, max(most - len(others), 1))
        if len(groups) < len(whole):
            self.limited.append(
                f"{len(whole)} blocks were first swapped in {len(groups)} groups, because {reason}"
            )
        elif others:
            self.limited.append(
                f"modules outside of blocks were swapped together, because {reason}"
            )
        return [*others, *groups]

    def _grouped(self, units: Sequence[SwapUnit], count: int) -> list[SwapUnit]:
        groups = grouped(units, count)
        for group, members in groups:
            if len(members) > 1:
                self._members[group] = members
        return [group for group, _ in groups]

    def _parts(self, unit: SwapUnit) -> list[SwapUnit] | None:
        """Return the blocks of a group, or the modules of a block, that differ; as few as the
        budget suffices for, or None if it does not."""
        left, members = self.budget.planned, self._members.get(unit)
        if members:
            if left < 2:
                return self._not_divided(unit, "blocks")
            return self._grouped(members, max(left // 2, 2))
        baseline, count = self.loaded.model, len(unit.modules)
        modules, usual = (
            [part for name in unit.modules for part in divided(baseline, name, most // count)]
            for most in (min(MOST_MODULES * count, left), MOST_MODULES * count)
        )
        if len(modules) < len(usual):
            if len(modules) == count:
                return self._not_divided(unit, "modules")
            self.limited.append(
                f"{unit.name} was divided into {len(modules)} modules instead of {len(usual)}, "
                f"because {self.budget.reason()}"
            )
        modules = with_tied_joined(modules, baseline, self.candidate)
        parts = self._fitting(modules, unit)
        return parts if parts == [unit] else self._different(parts)

    def _not_divided(self, unit: SwapUnit, parts: str) -> None:
        reason = self.budget.reason()
        self.limited.append(f"{unit.name} was not divided into {parts}, because {reason}")

    def _different(self, units: Sequence[SwapUnit]) -> list[SwapUnit]:
        """Return the units that are not certainly equal on both sides."""
        return [unit for unit in units if self.run_equal or not self._is_same(unit)]

    def _measure(self, units: Sequence[SwapUnit]) -> tuple[Measured, bool]:
        """Return the divergences of the units that fit into the baseline, and whether the budget
        sufficed for all of them."""
        measured: Measured = []
        self.bar.total += len(units)
        self.bar.refresh()
        for number, unit in enumerate(units):
            if self.budget.left < 1:
                self.limited.append(
                    f"{len(units) - number} of {len(units)} modules or blocks were not swapped, "
                    f"because {self.budget.reason()}"
                )
                return measured, False
            try:
                measured.append((unit, self._divergence(unit)))
            except NotSwappableError as error:
                self.not_swapped.append(str(error))
            self.bar.update()
        return measured, True

    def _divergence(self, unit: SwapUnit) -> float:
        """Return the divergence that a unit causes.

        Raises:
            NotSwappableError: it does not fit into the baseline.
        """
        baseline = self.loaded.model
        self._check_fits(unit)
        with swapped(baseline, self.candidate, unit):
            return self.score(baseline)

    def _check_fits(self, unit: SwapUnit) -> None:
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

    def _is_same(self, unit: SwapUnit) -> bool:
        sides = self.loaded.model, self.candidate
        try:
            pairs = [[model.get_submodule(name) for model in sides] for name in unit.modules]
            values = [[model.get_parameter(name) for model in sides] for name in unit.parameters]
        except AttributeError:  # the candidate has no such module, or another form of it
            return False
        return all(is_same(*pair) for pair in pairs) and all(is_equal(*v) for v in values)

    def _fitting(self, modules: Sequence[SwapUnit], block: SwapUnit) -> list[SwapUnit]:
        """Return the modules of a block, with those that do not fit into the baseline replaced by
        the smallest module around them that does, which may be the block."""
        parts: list[SwapUnit] = []
        for module in modules:
            parts.append(self._smallest_fitting(module, block))
        roots = {name for part in parts for name in part.modules if part not in modules}
        kept = [
            part
            for part in dict.fromkeys(parts)
            if not any(_is_inside(name, root) for name in part.names for root in roots)
        ]
        return kept

    def _smallest_fitting(self, module: SwapUnit, block: SwapUnit) -> SwapUnit:
        while True:
            try:
                self._check_fits(module)
                return module
            except NotSwappableError:
                parent = module.names[0].rpartition(".")[0]
                if parent in ("", *block.modules):
                    return block
                module = SwapUnit(parent, (parent,))


def is_of_blocks(unit: SwapUnit, blocks: Collection[str]) -> bool:
    """Return whether a unit consists of blocks."""
    return bool(unit.modules) and not unit.parameters and set(unit.modules) <= set(blocks)


def sortable(value: float) -> float:
    """Return a divergence by which units can be sorted; NaN is larger than all others."""
    return math.inf if math.isnan(value) else value


def _ratio(value: float, whole: float) -> float:
    return value / whole if math.isfinite(value) and math.isfinite(whole) else math.nan


def _is_inside(name: str, root: str) -> bool:
    return name.startswith(f"{root}.")
