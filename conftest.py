"""Refuses to run without the plugin, whose options pytest must know before it looks at paths."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    if not pluginmanager.hasplugin("compression_gates.plugin"):
        settings = ROOT / "pyproject.toml"
        raise pytest.UsageError(
            f"pytest has not read {settings}, so it takes the values of options for test folders; "
            f"name tests/gates before all options, add -c {settings}, or run compression-gates"
        )
    from compression_gates.fixtures.suite import locations

    if locations.ROOT.resolve() != ROOT.resolve():
        raise pytest.UsageError(
            f"compression_gates is installed from {locations.ROOT}, not from this folder; run "
            f"pip install -e {ROOT}"
        )
