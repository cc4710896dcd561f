"""Compression methods: functions that take a model and return a compressed model.

The package is imported as ``compression_gates.compression``. If the root of a clone is on
``sys.path``, it also shadows ``compression``, a package of the standard library since Python 3.14
that ``gzip`` and ``zipfile`` import. Therefore ``__path__`` is extended by every ``compression`` on
``sys.path``, and this module defines no names.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
