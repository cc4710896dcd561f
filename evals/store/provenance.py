"""Versions of the packages and of this project's source code that a measurement depends on."""

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
"""Packages that every measurement depends on."""


def packages_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the versions of the packages that unpack or merge the weights of a checkpoint; empty
    for plain weights."""
    names = {
        name.partition(".")[0] for form in _forms(checkpoint) for name in format_of(form).packages
    }
    return {
        distribution: version_of(distribution)
        for name in sorted(names)
        for distribution in sorted(set(_distributions().get(name, ())))
    }


def unpacked_by(checkpoint: Checkpoint, formats: Sequence[CustomFormat]) -> dict[str, str]:
    """Return the versions of the custom formats that a checkpoint is stored in, usually none."""
    methods = {form.partition(" ")[0] for form in _forms(checkpoint)}
    return {item.method: item.version() for item in formats if item.method in methods}


def _forms(checkpoint: Checkpoint) -> list[str]:
    return [checkpoint.form, *([checkpoint.base.form] if checkpoint.base else [])]


_distributions = cache(packages_distributions)
version_of = cache(version)  # reading a version from disk takes a millisecond


@cache
def code_version() -> str:
    """Return the hash of the source that measurements depend on: the scorers, the bench that runs
    them, and everything in this package that they import."""
    room, package = Path(__file__).parents[1], __package__.rpartition(".")[0]
    scorers = sorted((room / "scoring").glob("[!_]*.py"))
    names = [f"{package}.scoring.{file.stem}" for file in scorers]
    return source_version((f"{package}.bench", *names), (package,))


@cache
def source_version(roots: Sequence[str], packages: Collection[str]) -> str:
    """Return the hash of the syntax trees of modules and of all modules that they import, without
    comments and docstrings.

    Args:
        roots: names of modules.
        packages: imports are followed only into these packages. Imports inside functions are
            followed too; imports under ``TYPE_CHECKING`` are not.

    Raises:
        ModuleNotFoundError: a module in ``roots`` does not exist.
    """
    waiting, digests = [*roots], {}
    prefixes = tuple(f"{package}." for package in packages)
    while waiting:
        name = waiting.pop()
        if name in digests:
            continue
        digests[name], imported = _read(name)
        inside = [other for other in imported if f"{other}.".startswith(prefixes)]
        waiting += filter(_spec, inside)
    return key_of(digests)


@cache
def _spec(name: str) -> ModuleSpec | None:
    """Return the spec of a module, or None if ``name`` is not a module, but defined in one.

    Imports the parent packages, but not the module.
    """
    parent = name.rpartition(".")[0]
    if parent:
        package = _spec(parent)
        if package is None or package.submodule_search_locations is None:
            return None
    return find_spec(name)


@cache
def _read(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the hash of a module's syntax tree, and the names of what it imports, which may be
    modules."""
    spec = _spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source of module {name}", name=name)
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    return read_source(Path(spec.origin).read_bytes(), package)


@cache
def read_source(source: bytes, package: str) -> tuple[str, tuple[str, ...]]:
    """Return the hash of the syntax tree of a module in ``package``, and the names of what it
    imports."""
    tree = ast.parse(source)
    imported: list[str] = []
    blocks: list[ast.AST] = [tree]
    while blocks:
        for statement in _statements(blocks.pop()):
            imported += _imports(statement, package)
            blocks.append(statement)
    return key_of({"tree": ast.dump(tree, annotate_fields=False)}), tuple(imported)


def _statements(block: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements directly in a block, after removing docstrings and other constants."""
    fields = ("body", "orelse", "finalbody", "handlers", "cases")
    if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING":
        fields = ("orelse",)
    for field in fields:
        statements = getattr(block, field, None)
        if isinstance(statements, list):
            statements[:] = [
                item
                for item in statements
                if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
            ]
            yield from statements


def _imports(statement: ast.AST, package: str) -> Iterator[str]:
    """Yield the absolute names that a statement of a module in ``package`` imports."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        source = "." * statement.level + (statement.module or "")
        source = resolve_name(source, package) if statement.level else source
        yield from (source, *(f"{source}.{alias.name}" for alias in statement.names))
