"""Keys depend on the syntax trees of the source, not on its comments and layout."""

import functools
from dataclasses import replace
from pathlib import Path

import pytest

from compression_gates import evals
from compression_gates.evals.store.provenance import code_version, source_version, unpacked_by
from compression_gates.fixtures.suite.own_formats import OWN_FORMATS
from tests.source_versions import fresh

ROOM = Path(evals.__file__).parent


@pytest.fixture
def edited(monkeypatch):
    """``edited(file, more)``: the file ends with ``more`` wherever it is read."""
    read = Path.read_bytes

    def edit(file: Path, more: str) -> None:
        monkeypatch.setattr(
            Path,
            "read_bytes",
            lambda self: read(self) + more.encode() if self == file else read(self),
        )

    return edit


@functools.cache
def unedited_version() -> str:
    return fresh(code_version)


@pytest.mark.parametrize(
    "name",
    [
        "bench", "checkpoints/checkpoint", "checkpoints/formats", "data/items", "data/rows",
        "data/tables", "models/cache", "models/loading", "scoring/classes", "scoring/divergence",
        "scoring/generation", "scoring/text", "statistics/sequential",
    ],
)  # fmt: skip
def test_a_measurement_depends_on_what_scoring_imports(name, edited):
    before, file = unedited_version(), ROOM / f"{name}.py"
    edited(file, '\n"""A docstring."""  # and a comment\n')
    assert fresh(code_version) == before
    edited(file, "\nLIMIT = 1\n")
    assert fresh(code_version) != before


@pytest.mark.parametrize(
    "name",
    ["gates/gate", "report/report", "gates/nightly", "metrics/perplexity"],
)
def test_a_measurement_does_not_depend_on_how_it_is_judged(name, edited):
    before = unedited_version()
    file = ROOM / f"{name}.py"
    assert file.is_file()
    edited(file, "\nLIMIT = 1\n")
    assert fresh(code_version) == before


SOURCES = {
    "__init__": "",
    "root": '''
from typing import TYPE_CHECKING
import {name}.whole
from . import beside
from {name}.some import function
if TYPE_CHECKING:
    from {name}.types import Type
else:
    from {name}.untyped import Type
def late():
    """It imports when it is called."""
    from {name}.lazy import thing
    return thing + 1
''',
    "whole": "import json",
    "beside": "from {name} import behind",
    "behind": "",
    "some": "def function(): return 1",
    "types": "Type = int",
    "untyped": "Type = int",
    "lazy": "thing = 1",
    "stranger": "",
}
COUNTED = ("root", "whole", "beside", "behind", "some", "untyped", "lazy")


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """``package(**sources)`` writes one with other sources; its version."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"package_of_{abs(hash(request.node.name))}"

    def make(**changed: str) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        for module, source in (SOURCES | changed).items():
            (tmp_path / name / f"{module}.py").write_text(source.format(name=name))
        return fresh(source_version, (f"{name}.root",), (name,))

    return make


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "__init__"])
def test_the_closure_follows_every_way_to_import(module, package):
    before = package()
    assert package() == before
    changed = package(**{module: SOURCES[module] + "\nMORE = 1\n"})
    assert (changed != before) == (module in COUNTED)


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ('def function():\n    """Says one."""\n    return 1  # one', True),
        ("def function():\n\n    return (1)", True),
        ("def function(): return 2", False),
        ("def function(x=0): return 1", False),
        ('def function():\n    x = """Says one."""\n    return 1', False),
        ('class A:\n    """One."""\ndef function(): return 1', False),
    ],
)
def test_docstrings_comments_and_layout_mean_nothing(source, same, package):
    assert (package(some=source) == package()) == same


def test_attribute_docstrings_mean_nothing(package):
    assert package(lazy='thing = 1\n"""Of which there is one."""\n') == package()


def test_no_such_module_is_an_error():
    with pytest.raises(ModuleNotFoundError, match=r"evals\.nowhere"):
        source_version(("evals.nowhere",), ("evals",))


def test_a_form_depends_on_the_source_that_unpacks_it(causal_checkpoint, edited):
    import compression_gates.compression.checkpoint.packing

    plain = causal_checkpoint()
    packed, formats = replace(plain, form="compression-gates"), OWN_FORMATS
    assert unpacked_by(plain, formats) == {}
    assert unpacked_by(replace(plain, form="compressed-tensors int-quantized"), formats) == {}
    before = fresh(unpacked_by, packed, formats)
    assert list(before) == ["compression-gates"]
    edited(Path(compression_gates.compression.checkpoint.packing.__file__), "\nMORE = 1\n")
    assert fresh(unpacked_by, packed, formats) != before
    adapter = replace(plain, form="lora on compression-gates", base=packed)
    assert unpacked_by(adapter, formats) == fresh(unpacked_by, packed, formats)
