import logging
import sys
import warnings

import pytest

from compression_gates.compression.errors import CompressionWarning
from compression_gates.compression.model.quiet import quiet


@pytest.mark.parametrize("bars", [False, True])
def test_warnings_of_this_package_are_shown_and_nobody_else_s(capsys, monkeypatch, bars):
    def show(message, category, filename, lineno, file=None, line=None):
        print(f"{category.__name__}: {message}", file=file or sys.stderr)

    monkeypatch.setattr(warnings, "showwarning", show)  # pytest's own writes nothing
    with quiet(bars):
        warnings.warn("ours", CompressionWarning, stacklevel=1)
        warnings.warn("theirs", UserWarning, stacklevel=1)
        logging.getLogger("theirs").warning("theirs")
        print("a bar", file=sys.stderr)
    told = capsys.readouterr().err
    assert "CompressionWarning: ours" in told
    assert "theirs" not in told
    assert ("a bar" in told) == bars


def test_warnings_reach_whoever_records_them():
    with pytest.warns(CompressionWarning, match="ours"), quiet():
        warnings.warn("ours", CompressionWarning, stacklevel=1)


def test_everything_is_as_it_was_behind_it():
    before = warnings.showwarning, list(warnings.filters), logging.root.manager.disable
    with quiet():
        pass
    assert (warnings.showwarning, list(warnings.filters), logging.root.manager.disable) == before
