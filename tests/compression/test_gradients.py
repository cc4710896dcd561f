"""Detection of a model's task."""

import pytest

from compression_gates.compression.architectures.models import (
    ARCHITECTURES,
    VOCABULARY,
    Architecture,
)
from compression_gates.compression.model.gradients import is_causal, is_seq2seq

TEXT = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0,
)  # fmt: skip
VISION = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    image_size=28, patch_size=14,
)  # fmt: skip
XLM = dict(emb_dim=32, n_layers=1, n_heads=4, max_position_embeddings=96)
XLNET = dict(d_model=32, n_layer=1, n_head=4, d_inner=48)


@pytest.mark.parametrize(
    ("model", "settings", "kind"),
    [
        ("Gemma3ForConditionalGeneration", dict(text_config=TEXT, vision_config=VISION), "causal"),
        ("XLNetLMHeadModel", XLNET, "causal"),
        ("XLMWithLMHeadModel", XLM, "causal"),
        ("BertLMHeadModel", {"is_decoder": True, **TEXT}, "causal"),
        ("XLNetForSequenceClassification", XLNET, "other"),
        ("BertForMaskedLM", TEXT, "other"),
    ],
)
def test_task_of_unusual_classes(model, settings, kind):
    instance = Architecture(model, settings).make()
    assert is_causal(instance) == (kind == "causal")
    assert not is_seq2seq(instance)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "causal"), ("gpt2", "causal"), ("bert", "other"), ("t5", "seq2seq"),
     ("marian", "seq2seq"), ("led", "seq2seq")],
)  # fmt: skip
def test_task_of_common_architectures(name, kind):
    model = ARCHITECTURES[name].make()
    assert (is_causal(model), is_seq2seq(model)) == (kind == "causal", kind == "seq2seq")


def test_task_of_a_subclass(tiny_llama):
    tiny_llama.__class__ = type("Mine", (type(tiny_llama),), {})
    assert is_causal(tiny_llama)
