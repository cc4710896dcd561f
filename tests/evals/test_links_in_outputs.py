"""A link in a folder of outputs is replaced, so that nothing is written outside of the folder."""

import os
from pathlib import Path

import pytest

from compression_gates.evals.data.paths import make_writable_folder, replace_files
from compression_gates.evals.report import __main__ as again
from compression_gates.evals.report import report_folder, static_figures
from compression_gates.evals.report.figure_data import POINTS, Figure, Series
from tests.processes import start

NAMES = ("report.md", "report.html", "report.jsonl", "items.npz")


@pytest.fixture
def linked(tmp_path):
    """``linked(*names)``: a folder with links of these names to a file outside of it."""
    outside = tmp_path / "outside"
    outside.write_text("precious")

    def make(*names):
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(outside)
        return folder

    yield make
    assert outside.read_text() == "precious"


def test_a_note_replaces_links(linked):
    folder = linked(*NAMES)
    report_folder.write_not_started(folder, "no case was run")
    assert (folder / "report.md").read_text() == "The run did not start: no case was run\n"
    assert not any(path.is_symlink() for path in folder.iterdir())
    linked("report.md", "report.html")
    report_folder.write_not_started(folder, "it was ended", keep=True)
    assert not any(path.is_symlink() for path in folder.iterdir())


@pytest.mark.parametrize("suffix", ["", ".partial"])
def test_a_report_replaces_links(linked, suffix):
    folder = linked(".probe", *(name + suffix for name in NAMES))
    report_folder.check_writable(folder)
    report_folder.write(folder, [], "text")
    assert (folder / "report.md").read_text() == "text"
    assert not any((folder / name).is_symlink() for name in NAMES)
    linked("report.html")
    assert again.main([str(folder)]) == 0
    assert not (folder / "report.html").is_symlink()


def test_a_figure_replaces_links(linked):
    pytest.importorskip("matplotlib")
    folder = linked("f.svg", "f.png")
    figure = Figure("f", "title", "x", "y", POINTS, (Series("a", (0.0,), (1.0,), ("m",)),))
    static_figures.write_figures([figure], folder)
    assert (folder / "f.svg").read_text().startswith("<?xml")
    assert not (folder / "f.png").is_symlink()


def test_nothing_is_replaced_unless_everything_is_written(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("before")
    with pytest.raises(OSError, match="No such file"):
        replace_files({kept: b"after", tmp_path / "missing" / "file": b"after"})
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert kept.read_text() == "before"
    make_writable_folder(tmp_path, "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def _write_and_die(file):
    Path.replace = lambda *paths: os._exit(9)
    replace_files({file: b"lost"})


def test_killed_runs_leave_nothing_behind_once_a_run_ends(linked):
    """Even if someone replaces what they left by a link."""
    folder = linked()
    file = folder / ("x" * 255)
    for _ in range(2):
        process = start(_write_and_die, file)
        process.join()
        assert process.exitcode == 9
    (left,) = folder.iterdir()
    linked(left.name)
    replace_files({file: b"kept"})
    assert list(folder.iterdir()) == [file]
    assert file.read_bytes() == b"kept"
