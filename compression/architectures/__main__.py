"""Tries every method on a small random model of every architecture, and prints what came of it.

    python -m compression_gates.compression.architectures [ARCHITECTURE ...] [--methods NAME,...]

Each method is applied as in ``--methods``' default recipes, the checkpoint saved, loaded again and
compared, and the output error of the layers held beside that of the method without data. All of it
takes about twenty minutes on one core. Exit code 1 if something neither worked nor was refused.
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
    "p: works, a plain checkpoint; c: compressed-tensors; o: the project's own format; a number: "
    "refused before anything is changed, see below; **worse**: more output error than without "
    "data. Errors are those of single layers, on the inputs that they have in the whole model, and "
    "summed; what the model as a whole puts out is not measured."
)
FAILS, WORSE = "**fails**", "**worse**"


class Refusals:
    """Reasons for which recipes are refused, numbered as they come."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def number(self, line: str, model: str) -> int:
        """The number of a line's reason, without the names of layer and model, and numbers."""
        reason = re.sub(r"^(layer \S+: )+", "", line).replace(model, "the model")
        reason = re.sub(r"^[\w,=-]+: ", "", reason.partition(";")[0])
        reason = re.sub(r"\bwith \d+ of its \d+ units", "with some of its units", reason)
        reason = re.sub(r"\bthat \w+ can remove", "that it can remove", reason)
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1


def row(name: str, methods: Sequence[str], refusals: Refusals) -> str:
    """A row of the table."""
    from compression_gates.compression.architectures.trial import attempt, recipes

    cells = []
    for method in methods:
        architecture = ARCHITECTURES[name]
        try:
            outcome = attempt(architecture, recipes()[method])
        except Exception as error:  # what this command is there to find
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
