"""Compression methods: take a model, give back a model.

Since Python 3.14 the standard library owns the name ``compression``, and ``gzip``, ``bz2``,
``lzma`` and ``zipfile`` import from it. So this package shares the name: it extends its path
over every ``compression`` on ``sys.path`` and exports nothing itself. Import its submodules.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
