"""Apply every method to a small random model of every architecture, and print a table of results.

    python -m compression_gates.compression.architectures [ARCHITECTURE ...] [--methods NAME,...]

The compressed model is saved, loaded again and compared, and the output error of its layers is
compared with that of a method without calibration data. The whole table takes about twenty minutes
on one core. The exit code is 1 if a method fails or has a larger error than the one without data.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.catalogue import METHODS
from compression_gates.compression.model.quiet import quiet

LETTERS = {"plain": "p", "compressed-tensors": "c", "compression-gates": "o"}
LEGEND = (
    "p: supported, saved as a plain checkpoint; c: saved as compressed-tensors; o: saved in the "
    "project's own format; a number: rejected before anything is changed, for the reason below; "
    "**worse**: larger output error than without data. The error is the sum over layers, each with "
    "its inputs in the uncompressed model; the output of the whole model is not measured."
)
FAILS, WORSE = "**fails**", "**worse**"


class Refusals:
    """Reasons for which recipes are rejected, numbered in order of appearance."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def number(self, line: str, model: str) -> int:
        """Return the number of a reason, ignoring names of layers and models, and counts."""
        reason = re.sub(r"^(layer \S+: )+", "", line).replace(model, "the model")
        reason = re.sub(r"^[\w,=-]+: ", "", reason.partition(";")[0])
        reason = re.sub(r"\bwith \d+ of its \d+ units", "with some of its units", reason)
        reason = re.sub(r"\bthat \w+ can remove", "that it can remove", reason)
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1


def row(name: str, methods: Sequence[str], refusals: Refusals) -> str:
    """Return a row of the table."""
    from compression_gates.compression.architectures.trial import attempt, recipes

    cells = []
    for method in methods:
        architecture = ARCHITECTURES[name]
        try:
            outcome = attempt(architecture, recipes()[method])
        except Exception as error:  # the command reports any failure in the table
            print(f"{name}, {method}: {type(error).__name__}: {error}", file=sys.stderr)
            cells.append(FAILS)
            continue
        if outcome.refused:
            cells.append(str(refusals.number(outcome.refused, architecture.model)))
        else:
            cells.append(WORSE if outcome.worse else LETTERS[outcome.form])
    return f"| {' | '.join([name, *cells])} |"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m compression_gates.compression.architectures", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE", help="default: all")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: all")
    options = parser.parse_args(words)
    methods = options.methods.split(",")
    for kind, given, known in (
        ("architecture", options.names, ARCHITECTURES), ("method", methods, METHODS),
    ):  # fmt: skip
        for name in given:
            if name not in known:
                parser.error(f"{kind} {name!r} is not known; known: {', '.join(known)}")
    print(f"| architecture | {' | '.join(methods)} |")
    print(f"| --- |{' --- |' * len(methods)}", flush=True)
    refusals, good = Refusals(), True
    with quiet(bars=True):
        for name in options.names or ARCHITECTURES:
            line = row(name, methods, refusals)
            good &= FAILS not in line and WORSE not in line
            print(line, flush=True)
    print(f"\n{LEGEND}\n")
    for number, reason in enumerate(refusals.reasons, 1):
        print(f"{number}. {reason}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
