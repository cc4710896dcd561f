"""Compression methods: take a model, give back a model.

Imported as ``compression_gates.compression``. Where the root of a clone is on ``sys.path``, it is
also found as ``compression``, a name that the standard library has owned since Python 3.14:
``gzip`` and ``zipfile`` import from it. So the path of the package is extended over every
``compression`` on ``sys.path``, and the package exports nothing itself.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
