"""The limits of an attribution: the number of passes over the data, and the time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

SECONDS = 480.0
"""Time limit of all passes of an attribution, without loading the models."""
MOST_PASSES = 256
"""Largest number of passes, which suffices for every block of models with up to 150 blocks."""
_PLANNED = 0.8
"""Share of the remaining time that is planned, because later passes may take longer."""


@dataclass
class Budget:
    """The passes and the time that are left.

    Attributes:
        seconds: time limit, from when the budget is created.
        passes: largest number of passes.
        clock: returns the time in seconds.
        used: number of passes so far.
    """

    seconds: float = SECONDS
    passes: int = MOST_PASSES
    clock: Callable[[], float] = time.monotonic
    used: int = 0
    _start: float = field(init=False)

    def __post_init__(self) -> None:
        self._start = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the budget was created."""
        return self.clock() - self._start

    @property
    def pass_seconds(self) -> float:
        """Mean seconds for each pass so far, with everything that was done between passes."""
        return self.elapsed / max(self.used, 1)

    @property
    def left(self) -> int:
        """Number of further passes within both limits, if they take as long as those before."""
        return max(int(min(self.passes - self.used, self._within_time())), 0)

    @property
    def planned(self) -> int:
        """Number of further passes to plan, which leaves some of the time as a reserve."""
        return max(int(min(self.passes - self.used, _PLANNED * self._within_time())), 0)

    def _within_time(self) -> float:
        return (self.seconds - self.elapsed) / max(self.pass_seconds, 1e-9)

    def reason(self) -> str:
        """Return the limit that is reached first, as part of a sentence."""
        if self.passes - self.used <= _PLANNED * self._within_time():
            return f"the limit is {self.passes} passes"
        return (
            f"a pass takes about {self.pass_seconds:.3g} s and the time limit is "
            f"{self.seconds / 60:.3g} minutes"
        )
