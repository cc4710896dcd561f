"""Make the page and the figures of a report again.

python -m compression_gates.evals.report DIR --figures DIR
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from compression_gates.evals.data.paths import replace_files
from compression_gates.evals.errors import EvalError
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.report import page, static_figures
from compression_gates.evals.report.figures import figures
from compression_gates.evals.report.ranking import rankings
from compression_gates.evals.report.report_rows import entries_of, read_report, weights_of
from compression_gates.evals.report.trends import trends_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page into the folder of a report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m compression_gates.evals.report")
    parser.add_argument("report", metavar="DIR", type=Path, help="folder of a report")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="also write figures to DIR")
    options = parser.parse_args(arguments)
    try:
        if options.figures:
            static_figures.check_directory(options.figures)
        report = read_report(options.report)
        rows, items = report.rows, report.items
        file = options.report / page.PAGE
        replace_files({file: page.render(rows, items).encode()})
        print(file)
        if options.figures:
            entries = entries_of(rows)
            ranked = rankings(entries, weights_of(rows))
            drawn = figures(entries, items, ranked, trends_of(rows))
            for written in static_figures.write_figures(drawn, options.figures):
                print(written)
    except (EvalError, OSError) as error:
        print(f"error: {on_one_line(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
