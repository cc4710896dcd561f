import logging
import sys
import warnings

import pytest

from compression_gates.compression.errors import CompressionWarning
from compression_gates.compression.model.quiet import quiet


@pytest.mark.parametrize("bars", [False, True])
def test_only_warnings_of_this_package_are_shown(capsys, monkeypatch, bars):
    def show(message, category, filename, lineno, file=None, line=None):
        print(f"{category.__name__}: {message}", file=file or sys.stderr)

    monkeypatch.setattr(warnings, "showwarning", show)  # pytest's own writes nothing
    with quiet(bars):
        warnings.warn("ours", CompressionWarning, stacklevel=1)
        warnings.warn("theirs", UserWarning, stacklevel=1)
        logging.getLogger("theirs").warning("theirs")
        print("a bar", file=sys.stderr)
    output = capsys.readouterr().err
    assert "CompressionWarning: ours" in output
    assert "theirs" not in output
    assert ("a bar" in output) == bars


def test_warnings_can_be_recorded():
    with pytest.warns(CompressionWarning, match="ours"), quiet():
        warnings.warn("ours", CompressionWarning, stacklevel=1)


def test_state_is_restored():
    before = warnings.showwarning, list(warnings.filters), logging.root.manager.disable
    with quiet():
        pass
    assert (warnings.showwarning, list(warnings.filters), logging.root.manager.disable) == before
