"""Small random models for the tests of the code itself, and their distribution over workers."""

import atexit
import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# How long an example takes depends on the machine and its first import, and is tested elsewhere.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

GATES = "tests/gates/"
"""The product, which distributes its own cases and divides the cores among its workers."""
SPLIT = (
    "tests/end_to_end/test_planted_defects.py",
    "tests/end_to_end/test_planted_code.py",
)
"""Long modules whose tests share no fixture, which are distributed test by test."""
LONGEST = ("tests/end_to_end/test_planted_defects.py", "tests/end_to_end/", GATES, "tests/fuzz/")
"""What is started first, so that no worker is left alone with it at the end."""


def unit_of(nodeid: str) -> str:
    """Return the unit of work that a test belongs to: its module, so that the fixtures of a module
    are made by one worker, or the test itself."""
    module = nodeid.partition("::")[0]
    return nodeid if module in SPLIT or module.startswith(GATES) else module


def rank_of(nodeid: str) -> int:
    """Return the place of a test's unit of work in the order in which units are started."""
    return next((i for i, start in enumerate(LONGEST) if nodeid.startswith(start)), len(LONGEST))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tests", "tests of the suite itself")
    group.addoption("--full", action="store_true", help="also run tests that are marked as full")


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker cores of its own, since the threads of two workers hinder one another."""
    config.addinivalue_line("markers", "full: run only with --full, because others check as much")
    worker = getattr(config, "workerinput", None)
    if worker is not None and not only_gates(config) and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        index, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
        # Neighbours, because these are often threads of one core.
        own = cores[index * len(cores) // count : (index + 1) * len(cores) // count]
        os.sched_setaffinity(0, own or [cores[index % len(cores)]])


def only_gates(config: pytest.Config) -> bool:
    """Return whether a run is of the gates alone, as users run them."""
    return all(Path(arg).resolve().is_relative_to(ROOT / GATES) for arg in config.args)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.option.full:
        full = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if not item.get_closest_marker("full")]
    if hasattr(config, "workerinput") and not only_gates(config):
        items.sort(key=lambda item: rank_of(item.nodeid))


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collections, which statsmodels starts often, and
    pytest at its end.

    Libraries free what they hold when Python ends; bindings report it as leaks otherwise.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Distribute units of work in their order, and cases of gates as the plugin does."""
    scheduler = yield
    if only_gates(config):
        return scheduler
    config.option.loadscopereorder = False

    class ByModule(type(scheduler)):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return unit_of(nodeid) if scope == nodeid else scope

    return ByModule(config, log, scheduler.names)


@pytest.fixture
def tiny_llama():
    """Two LLaMA blocks, grouped-query attention, tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tiny_encoder():
    """``tiny_encoder("bert" | "albert" | "roberta")``: three uses of a layer, two classes."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from compression_gates.fixtures.world.train_encoder import CONFIGS

    def make(kind: str):
        torch.manual_seed(0)
        extra = {"embedding_size": 16} if kind == "albert" else {}
        config = CONFIGS[kind](
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=66, pad_token_id=0, **extra,
        )  # fmt: skip
        return AutoModelForSequenceClassification.from_config(config).eval()

    return make


@pytest.fixture
def bert_config():
    """``bert_config(tokenizer, **changes)``: two layers, for whatever head."""
    from transformers import BertConfig

    def make(tokenizer, **changes):
        return BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, pad_token_id=tokenizer.pad_token_id, **changes,
        )  # fmt: skip

    return make


@pytest.fixture
def batches():
    """Two calibration batches with padding on the right."""
    import torch

    generator = torch.Generator().manual_seed(1)
    found = []
    for lengths in ((12, 9, 12), (10, 7, 3)):
        ids = torch.randint(1, 64, (3, max(lengths)), generator=generator)
        mask = torch.tensor([[int(i < n) for i in range(max(lengths))] for n in lengths])
        found.append({"input_ids": ids * mask, "attention_mask": mask})
    return found
