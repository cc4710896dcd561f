"""What a number depends on beside the model, the data and the protocol: packages and our source."""

import ast
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec, resolve_name
from pathlib import Path

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.formats import CustomFormat, format_of
from compression_gates.evals.store.measurement import key_of

PACKAGES = ("torch", "transformers", "tokenizers", "compressed-tensors", "jinja2")
"""Whatever is scored, these take part."""


def packages_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Versions of what unpacks or merges its weights; empty for plain ones."""
    names = {
        name.partition(".")[0] for form in _forms(checkpoint) for name in format_of(form).packages
    }
    return {
        distribution: version_of(distribution)
        for name in sorted(names)
        for distribution in sorted(set(_distributions().get(name, ())))
    }


def unpacked_by(checkpoint: Checkpoint, formats: Sequence[CustomFormat]) -> dict[str, str]:
    """Versions of the custom formats that a checkpoint is stored in; empty for other forms."""
    methods = {form.partition(" ")[0] for form in _forms(checkpoint)}
    return {one.method: one.version() for one in formats if one.method in methods}


def _forms(checkpoint: Checkpoint) -> list[str]:
    return [checkpoint.form, *([checkpoint.base.form] if checkpoint.base else [])]


_distributions = cache(packages_distributions)
version_of = cache(version)  # reading it from disk takes a millisecond each time


@cache
def code_version() -> str:
    """Hash of the source that measurements depend on, so that none outlives its code: the scorers,
    the bench that runs them, and what they import."""
    room, package = Path(__file__).parents[1], __package__.rpartition(".")[0]
    scorers = sorted((room / "scoring").glob("[!_]*.py"))
    names = [f"{package}.scoring.{file.stem}" for file in scorers]
    return source_version((f"{package}.bench", *names), (package,))


@cache
def source_version(roots: Sequence[str], packages: Collection[str]) -> str:
    """Hash of what modules mean: of their syntax trees without comments and docstrings.

    Args:
        roots: names of modules.
        packages: where a module that is imported, wherever in the source, lies in one of these, it
            counts too, and so does what it imports in turn. Imports for type checkers do not.

    Raises:
        ModuleNotFoundError: no such module among ``roots``.
    """
    waiting, found = [*roots], {}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        digest, imported = _read(name)
        found[name] = digest
        waiting += [other for other in imported if _lies_in(other, packages) and _spec(other)]
    return key_of(found)


def _lies_in(name: str, packages: Collection[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@cache
def _spec(name: str) -> ModuleSpec | None:
    """Where a module is; None where ``name`` is what a module defines, and no module.

    Imports the packages around it and no module.
    """
    parent = name.rpartition(".")[0]
    if parent:
        around = _spec(parent)
        if around is None or around.submodule_search_locations is None:
            return None
    return find_spec(name)


@cache
def _read(name: str) -> tuple[str, tuple[str, ...]]:
    """The meaning of a module, and all names that may be modules that it imports."""
    spec = _spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source of module {name}", name=name)
    tree = ast.parse(Path(spec.origin).read_bytes())
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    imported: list[str] = []
    blocks: list[ast.AST] = [tree]
    while blocks:
        for statement in _statements(blocks.pop()):
            imported += _imports(statement, package)
            blocks.append(statement)
    return key_of({"tree": ast.dump(tree, annotate_fields=False)}), tuple(imported)


def _statements(block: ast.AST) -> Iterator[ast.AST]:
    """What stands directly in a block, from which strings by themselves are removed."""
    fields = ("body", "orelse", "finalbody", "handlers", "cases")
    if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING":
        fields = ("orelse",)
    for field in fields:
        inside = getattr(block, field, None)
        if isinstance(inside, list):
            inside[:] = [statement for statement in inside if not _is_text(statement)]
            yield from inside


def _is_text(statement: ast.AST) -> bool:
    """Whether a statement is a string by itself, such as a docstring, which does nothing."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imports(statement: ast.AST, package: str) -> Iterator[str]:
    """Names of what a statement imports, from a module in ``package``."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        source = "." * statement.level + (statement.module or "")
        source = resolve_name(source, package) if statement.level else source
        yield from (source, *(f"{source}.{alias.name}" for alias in statement.names))
