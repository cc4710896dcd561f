"""Small random models for the tests of the code itself, and their distribution over workers."""

import os

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: two workers with a thread for every core each hinder one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on the machine and its first import, and is tested elsewhere.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

SPLIT = (
    "tests/end_to_end/test_gates.py",
    "tests/end_to_end/test_planted_code.py",
)
"""Long modules whose tests share nothing, which are distributed test by test."""
FIRST = (
    "tests/end_to_end/test_planted_defects.py",
    "tests/end_to_end/",
    "tests/fuzz/",
    "tests/gates/",
)
"""What takes longest, so that no worker is left alone with it at the end; the longest first."""


def unit_of(node_id: str) -> str:
    """Return the unit of work that a test belongs to: its module, so that a fixture of a module is
    made by one worker, or the test itself."""
    module = node_id.partition("::")[0]
    return node_id if module in SPLIT else module


def rank_of(unit: str) -> int:
    """Return the place of a unit of work in the order in which units are started."""
    return next((i for i, prefix in enumerate(FIRST) if unit.startswith(prefix)), len(FIRST))


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Distribute modules, the longest first, and the cases of a candidate as the plugin does."""
    by_candidate = type((yield))

    class ByModule(by_candidate):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return unit_of(nodeid) if scope == nodeid else scope

        def schedule(self) -> None:
            super().schedule()

    return ByModule(config, log)


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
