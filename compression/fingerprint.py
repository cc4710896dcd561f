"""Hashes of functions, with everything that their results are known to depend on.

Covered are the files that a function and its helpers are defined in, its closure, default values,
the arguments of a partial, the state of an object, and the globals that its code names. Modules
that a function imports while it runs are not.
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
"""Stands for what cannot be hashed, so that no other process has the same hash."""
_LIBRARIES = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")
)
_OF_CLASSES = ("__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__",
               "__static_attributes__", "_abc_impl", "__annotations_cache__")  # fmt: skip
"""Attributes of a class that say nothing about what its methods do."""
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
    property: lambda own: (own.fget, own.fset),
}  # fmt: skip
"""What values of these types consist of."""


def fingerprint(function: Callable) -> str:
    """A hash of a function that changes with what its results depend on.

    Where it depends on a value that cannot be hashed, the hash is another one in every process.
    """
    try:
        return _Hasher(_top_level(function)).digest(function).hex()
    except Exception:  # of a value's own __reduce_ex__: anything
        return _NONCE


def origin(function: Callable) -> str:
    """The module and the qualified name of a function, or of the class of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _top_level(function: Callable) -> str:
    return origin(function).partition(".")[0]


class _Hasher:
    """Hashes values recursively.

    Args:
        own: the top-level package whose code is followed although it is installed.
    """

    def __init__(self, own: str):
        self.own = own
        self._known: dict[int, tuple[int, object]] = {}
        """Number of each value that has been reached; the values themselves are kept alive, so
        that no other gets the id of one."""

    def digest(self, value: object) -> bytes:
        """The hash of a value.

        Raises:
            TypeError: a value of a kind that cannot be hashed.
        """
        if isinstance(value, _ATOMS) and type(value) in _ATOMS:
            return _joined(type(value).__name__, repr(value))
        if id(value) in self._known:
            return _joined("again", str(self._known[id(value)][0]))
        self._known[id(value)] = len(self._known), value
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
            yield from sorted(_Hasher(self.own).digest(item) for item in value)
        elif torch and isinstance(value, torch.Tensor):
            yield from _tensor(value)
        else:
            yield from self._object(value)

    def _object(self, value: object) -> Iterator[str | bytes]:
        """What pickle would store of an object."""
        reduced = value.__reduce_ex__(4)
        yield self.digest(type(value))
        if isinstance(reduced, str):  # its name in a module
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
                held = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            yield self.digest(held)
        for name, value in sorted(self._globals(function).items()):
            yield name
            if not module:
                yield self.digest(value)
                continue
            known = dict(self._known)
            try:
                yield self.digest(value)
            except Exception:  # the file, which is hashed, says how it is made
                self._known = known

    def _globals(self, function: FunctionType) -> dict[str, object]:
        """The globals that the code names, and the attributes of modules of the user."""
        names = set(_names(function.__code__))
        found = {name: value for name, value in function.__globals__.items() if name in names}
        for name, value in list(found.items()):
            if isinstance(value, ModuleType) and self._is_followed(value.__name__):
                own = vars(value)
                found |= {f"{name}.{key}": own[key] for key in names if key in own}
        return found

    def _class(self, cls: type) -> Iterator[str | bytes]:
        yield from (cls.__module__, cls.__qualname__)
        if not self._is_followed(cls.__module__):
            return
        if digest := _file_digest(cls.__module__):
            yield digest
        else:
            for name, value in sorted(vars(cls).items()):
                if name not in _OF_CLASSES:
                    yield from (name, self.digest(value))
        yield from map(self.digest, cls.__bases__)

    def _is_followed(self, module: str) -> bool:
        """Whether a module is the user's, and no library."""
        top = (module or "").partition(".")[0]
        if top in (self.own, "__main__"):
            return True
        if top == PACKAGE or top in sys.stdlib_module_names:
            return False
        file = getattr(sys.modules.get(module), "__file__", None)
        return file is None or not any(
            Path(file).resolve().is_relative_to(library) for library in _LIBRARIES
        )


def _joined(*parts: str | bytes) -> bytes:
    """A hash of parts, which it keeps apart."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.digest()


def _names(code: CodeType) -> Iterator[str]:
    """Global names and attributes in code, that of inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _defining_module(name: str, file: str) -> str:
    """The module whose file holds code of ``file``; empty for code of ``__main__``, of a notebook
    or of ``exec``."""
    own = getattr(sys.modules.get(name), "__file__", None)
    is_same = own is not None and Path(own).resolve() == Path(file).resolve()
    return name if is_same and _file_digest(name) else ""


def _file_digest(module: str) -> bytes:
    """The hash of a module's file; empty for ``__main__`` and where there is none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or file is None or not Path(file).is_file():
        return b""
    return hashlib.sha256(Path(file).read_bytes()).digest()


def _tensor(value) -> Iterator[str | bytes]:
    import torch

    yield from (str(value.dtype), repr(tuple(value.shape)))
    flat = value.detach().cpu().contiguous().reshape(-1)
    yield flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
