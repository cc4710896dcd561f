"""Hash functions together with the code and the values that their results depend on.

The hash covers the files that a function and its helpers are defined in, its closure, default
values, the arguments of a partial, the state of an object, and the globals that its code names. It
does not cover modules that a function imports while it runs.
"""

import functools
import hashlib
import secrets
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]
_NONCE = secrets.token_hex()
"""Used in place of a hash that cannot be computed; differs in every process."""
_LIBRARIES = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")
)
_IGNORED_ATTRIBUTES = ("__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__",
                       "__static_attributes__", "_abc_impl", "__annotations_cache__")  # fmt: skip
"""Attributes of a class that do not affect its methods."""
_ATOMS = (type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes)

_CONTENTS: dict[type, Callable[[Any], Iterable[object]]] = {
    tuple: iter,
    list: iter,
    dict: lambda mapping: chain.from_iterable(mapping.items()),
    CodeType: lambda code: (
        code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_freevars,
    ),
    MethodType: lambda method: (method.__func__, method.__self__),
    functools.partial: lambda bound: (bound.func, bound.args, bound.keywords),
    staticmethod: lambda method: (method.__func__,),
    classmethod: lambda method: (method.__func__,),
    property: lambda accessors: (accessors.fget, accessors.fset),
}  # fmt: skip
"""Functions that return the contents of a value, by its type."""


def fingerprint(function: Callable) -> str:
    """Return a hash that changes with everything the results of a function depend on.

    If they depend on a value that cannot be hashed, the hash differs in every process.
    """
    try:
        return _Hasher(origin(function).partition(".")[0]).digest(function).hex()
    except Exception:  # __reduce_ex__ of a value can raise any error
        return _NONCE


def origin(function: Callable) -> str:
    """Return the qualified name, with module, of a function or of a callable object's class."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


class _Hasher:
    """Hash values recursively.

    Args:
        package: top-level package whose code is hashed although it is installed.
    """

    def __init__(self, package: str):
        self.package = package
        self._visited: dict[int, tuple[int, object]] = {}
        """Number of each visited value by its id, and the value, so that its id is not reused."""

    def digest(self, value: object) -> bytes:
        """Return the hash of a value.

        Raises:
            TypeError: the value cannot be hashed.
        """
        if isinstance(value, _ATOMS) and type(value) in _ATOMS:
            return _joined(type(value).__name__, repr(value))
        if id(value) in self._visited:
            return _joined("again", str(self._visited[id(value)][0]))
        self._visited[id(value)] = len(self._visited), value
        return _joined(type(value).__qualname__, *self._parts(value))

    def _parts(self, value: object) -> Iterator[str | bytes]:
        torch = sys.modules.get("torch")
        if isinstance(value, ModuleType):
            yield from (value.__name__, _file_digest(value.__name__))
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif type(value) in _CONTENTS:
            yield from map(self.digest, _CONTENTS[type(value)](value))
        elif type(value) in (set, frozenset):
            yield from sorted(_Hasher(self.package).digest(item) for item in value)
        elif torch and isinstance(value, torch.Tensor):
            yield from _tensor(value)
        else:
            yield from self._object(value)

    def _object(self, value: object) -> Iterator[str | bytes]:
        """Hash what pickle would store of an object."""
        reduced = value.__reduce_ex__(4)
        yield self.digest(type(value))
        if isinstance(reduced, str):  # a global name
            yield from (getattr(value, "__module__", None) or "", reduced)
            yield self.digest(getattr(value, "__wrapped__", None))
            return
        for part in reduced:
            is_iterator = hasattr(part, "__next__")
            yield self.digest(list(part) if is_iterator else part)

    def _function(self, function: FunctionType) -> Iterator[str | bytes]:
        module = _defining_module(function.__module__, function.__code__.co_filename)
        yield function.__qualname__
        if module:
            yield _file_digest(module)
        else:
            yield self.digest(function.__code__)
        if not self._is_followed(function.__module__):
            return
        yield from map(self.digest, (function.__defaults__, function.__kwdefaults__))
        yield self.digest(vars(function))
        for cell in function.__closure__ or ():
            try:
                contents = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            yield self.digest(contents)
        for name, value in sorted(self._globals(function).items()):
            yield name
            if not module:
                yield self.digest(value)
                continue
            visited = dict(self._visited)
            try:
                yield self.digest(value)
            except Exception:  # the code that creates it is in the file, which is hashed
                self._visited = visited

    def _globals(self, function: FunctionType) -> dict[str, object]:
        """Return the globals that the code names, and attributes of the user's modules."""
        names = set(_names(function.__code__))
        used = {name: value for name, value in function.__globals__.items() if name in names}
        for name, value in list(used.items()):
            if isinstance(value, ModuleType) and self._is_followed(value.__name__):
                attributes = vars(value)
                used |= {f"{name}.{key}": attributes[key] for key in names if key in attributes}
        return used

    def _class(self, cls: type) -> Iterator[str | bytes]:
        yield from (cls.__module__, cls.__qualname__)
        if not self._is_followed(cls.__module__):
            return
        if digest := _file_digest(cls.__module__):
            yield digest
        else:
            for name, value in sorted(vars(cls).items()):
                if name not in _IGNORED_ATTRIBUTES:
                    yield from (name, self.digest(value))
        yield from map(self.digest, cls.__bases__)

    def _is_followed(self, module: str) -> bool:
        """Return whether a module is user code rather than a library."""
        top = (module or "").partition(".")[0]
        if top in (self.package, "__main__"):
            return True
        if top == PACKAGE or top in sys.stdlib_module_names:
            return False
        file = getattr(sys.modules.get(module), "__file__", None)
        return file is None or not any(
            Path(file).resolve().is_relative_to(library) for library in _LIBRARIES
        )


def _joined(*parts: str | bytes) -> bytes:
    """Hash a sequence of parts and their lengths."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.digest()


def _names(code: CodeType) -> Iterator[str]:
    """Yield the global and attribute names in code, including inner functions."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _defining_module(name: str, file: str) -> str:
    """Return ``name`` if ``file`` is the file of that module; otherwise, as for ``__main__``,
    notebooks and ``exec``, an empty string."""
    source = getattr(sys.modules.get(name), "__file__", None)
    is_same = source is not None and Path(source).resolve() == Path(file).resolve()
    return name if is_same and _file_digest(name) else ""


def _file_digest(module: str) -> bytes:
    """Return the hash of a module's file; empty for ``__main__`` or if there is no file."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or file is None or not Path(file).is_file():
        return b""
    return hashlib.sha256(Path(file).read_bytes()).digest()


def _tensor(value) -> Iterator[str | bytes]:
    import torch

    yield from (str(value.dtype), repr(tuple(value.shape)))
    flat = value.detach().cpu().contiguous().reshape(-1)
    yield flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
