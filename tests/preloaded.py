# ruff: noqa: F401
"""What the server of :mod:`tests.processes` imports and reads before the first process is forked.

Every run of the gates imports these modules and reads the sources that its measurements depend on,
which would take a second in each process.
"""

import importlib
import pkgutil
from types import ModuleType

import anyio._backends._asyncio
import anyio.pytest_plugin
import compressed_tensors
import hypothesis
import plotly.offline
import pytest
import pytest_benchmark.plugin
import rouge_score.rouge_scorer
import scipy.stats
import tomli_w
import transformers.generation.utils
import transformers.models.albert.modeling_albert
import transformers.models.bert.modeling_bert
import transformers.models.llama.modeling_llama
import transformers.models.roberta.modeling_roberta
import xdist.plugin

import compression_gates.plugin
from compression_gates import compression, evals
from compression_gates.evals.store.provenance import code_version
from compression_gates.fixtures import suite
from compression_gates.fixtures.suite.artifacts import artifact_version
from compression_gates.fixtures.suite.own_formats import OWN_FORMATS


def import_all(package: ModuleType) -> None:
    """Import the modules of a package and of its subpackages."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


for _package in (compression, evals, suite):
    import_all(_package)
# Reading sources starts no threads.
code_version()
artifact_version()
for _format in OWN_FORMATS:
    _format.version()
