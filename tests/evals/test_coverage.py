"""What the data touch: experts against router logits, tokens and scripts against plain counts."""

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.evals.data.items import DataSet, Prompt, Text
from compression_gates.evals.report.coverage import Coverage, scripts_of
from compression_gates.evals.scoring import routing
from compression_gates.evals.scoring.routing import count_expert_tokens
from compression_gates.evals.scoring.vocabulary import token_coverage
from compression_gates.fixtures.world.shipped import MODELS

SIZES = dict(
    vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=32, pad_token_id=0, num_experts_per_tok=2,
    intermediate_size=24,
)  # fmt: skip
MIXTURES = {
    "MixtralForCausalLM": SIZES | dict(num_local_experts=8),
    "Qwen3MoeForCausalLM": SIZES | dict(num_experts=8, moe_intermediate_size=12, head_dim=8),
    "GptOssForCausalLM": SIZES | dict(num_local_experts=8, head_dim=8),
    "OlmoeForCausalLM": SIZES | dict(num_experts=8),
}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 0, 0]])
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])


def model_of(name, **changes):
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**(MIXTURES | changes.pop("more", {}))[name], **changes)).eval()


@pytest.mark.parametrize("name", MIXTURES)
def test_tokens_are_counted_as_the_router_sends_them(name):
    model = model_of(name)
    with count_expert_tokens(model) as counts, torch.inference_mode():
        output = model(IDS, attention_mask=MASK, output_router_logits=True)
    found = counts()["experts"]
    for layer, logits in zip(found, output.router_logits, strict=True):
        sent = logits.topk(2, dim=-1).indices[MASK.reshape(-1).bool()]
        assert layer.tolist() == torch.bincount(sent.reshape(-1), minlength=8).tolist()
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", MIXTURES)
def test_tokens_that_go_to_both_of_two_experts(name):
    counted = "num_local_experts" if "num_local_experts" in MIXTURES[name] else "num_experts"
    model = model_of(name, more={name: MIXTURES[name] | {counted: 2}})
    with count_expert_tokens(model) as counts, torch.inference_mode():
        model(IDS, attention_mask=MASK)
    assert counts()["experts"].tolist() == [[10, 10], [10, 10]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([[0, 1], [0, 1], [1, 0]], [3, 3]),
        ([[False, True], [False, True], [True, False]], [1, 2]),
        ([[1, 1], [1, 1]], [2, 2]),
        ([[0, 0], [0, 0]], [0, 0]),
        ([[0, 1, 1], [0, 0, 1]], [0, 1, 2]),
        ([[2, 1, 0], [0, 1, 2]], [2, 2, 2]),
    ],
)
def test_indices_and_columns_of_experts_are_told_apart(given, expected):
    found = routing._routing([torch.tensor(given)], len(expected))
    assert found.sum(0).tolist() == expected


def test_tokens_of_a_generation_are_counted_once():
    model = model_of("MixtralForCausalLM")
    with count_expert_tokens(model) as counts, torch.inference_mode():
        said = model.generate(
            IDS.flip(1), attention_mask=MASK.flip(1), max_new_tokens=4, do_sample=False,
            eos_token_id=None,
        )  # fmt: skip
    assert said.shape[1] == 10
    # The last token that is generated is not read again.
    assert counts()["experts"].sum(1).tolist() == [2 * (10 + 2 * 3)] * 2


def test_experts_that_are_all_given_all_tokens():
    """Llama 4 gives every expert all tokens, zeroed where they are for another."""
    config = transformers.Llama4TextConfig(
        **SIZES | dict(num_experts_per_tok=1), num_local_experts=4, intermediate_size_mlp=24,
        head_dim=8, interleave_moe_layer_step=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Llama4ForCausalLM(config).eval()
    with count_expert_tokens(model) as counts, torch.inference_mode():
        model(IDS, attention_mask=MASK)
    assert counts()["experts"].sum(1).tolist() == [10, 10]


def test_a_dense_model_has_no_experts():
    config = transformers.LlamaConfig(
        **{k: v for k, v in SIZES.items() if k != "num_experts_per_tok"}
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with count_expert_tokens(model) as counts, torch.inference_mode():
        model(IDS)
    assert counts() == {}


def test_experts_in_modules_of_their_own_are_not_claimed_to_be_counted():
    model = model_of("MixtralForCausalLM")
    for layer in model.model.layers:
        layer.mlp.experts.num_experts = None
    with count_expert_tokens(model) as counts:
        pass
    assert counts()["experts"].shape == (0, 0)


def test_tokens_and_the_longest_document():
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / "llama-tiny")
    items = (Text("Rufus lives in Merrin.", 0), Text("Lena owns a drum.", 1))
    found = token_coverage(tokenizer, DataSet("d", items))
    rows = [tokenizer(item.text).input_ids for item in items]
    assert found["used"] == len({token for row in rows for token in row})
    assert found["longest"] == max(len(row) for row in rows)
    assert found["vocabulary"] == len(tokenizer)
    answered = token_coverage(tokenizer, DataSet("d", (Prompt("Who?", "Rufus lives", 0),)))
    assert answered["longest"] > len(tokenizer("Who?").input_ids)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Merrin", {"Latin": 1.0}),
        ("caf\u00e9 stra\u00dfe", {"Latin": 1.0}),
        ("\u041c\u043e\u0441\u043a\u0432\u0430", {"Cyrillic": 1.0}),
        ("\u6771\u4eac", {"Han": 1.0}),
        ("\u3072\u30ab", {"Japanese kana": 1.0}),
        ("\uff21\uff22", {"Latin": 1.0}),
        ("\u0928\u092e", {"Devanagari": 1.0}),
        ("\u05d0\u05d1 ab", {"Hebrew": 0.5, "Latin": 0.5}),
        ("12 + 3 = 15!", {}),
        ("", {}),
    ],
)
def test_scripts(text, expected):
    assert scripts_of([text]) == expected


@given(st.lists(st.text()))
def test_shares_of_scripts_add_up(texts):
    shares = scripts_of(texts)
    assert sum(shares.values()) == pytest.approx(1.0 if shares else 0.0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def coverage(**changes):
    usual = dict(
        baseline="b", role="text", data="text", used=13, vocabulary=100, longest=85, context=512,
        window=512, scripts={"Latin": 1.0},
    )  # fmt: skip
    return Coverage(**usual | changes)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "text: 13% of the vocabulary, documents of at most 85 tokens of 512, Latin"),
        ({"data": "a.txt"}, "text (a.txt): 13% of the vocabulary"),
        ({"longest": 9000, "window": 256}, "at most 9,000 tokens, read 256 at a time, of 512"),
        ({"longest": 9000, "window": None}, "at most 9,000 tokens, read 512 at a time, of 512"),
        ({"context": None}, "documents of at most 85 tokens, Latin"),
        ({"scripts": {"Han": 0.6, "Latin": 0.395, "Greek": 0.005}}, "Han and Latin"),
        ({"scripts": {}}, "no letters"),
        ({"experts": 16, "reached": 11, "has_experts": True}, "11 of 16 experts"),
        ({"has_experts": True}, "experts not counted"),
    ],
)
def test_a_line_of_the_report(changes, line):
    assert line in coverage(**changes).line()


def test_positions_are_those_that_are_read():
    assert coverage().positions == 85
    assert coverage(longest=9000, window=256).positions == 256
    assert coverage(longest=9000, window=None, context=None).positions == 9000


def test_a_bench_counts_experts_while_it_scores(tmp_path):
    from compression_gates.evals.bench import Bench
    from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
    from compression_gates.evals.store.store import Store

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / "llama-tiny")
    config = transformers.MixtralConfig(
        **SIZES | dict(vocab_size=576, bos_token_id=1, eos_token_id=2), num_local_experts=8
    )
    torch.manual_seed(0)
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path / "mixture")
    tokenizer.save_pretrained(tmp_path / "mixture")
    bench = Bench(Store(tmp_path / "store"))
    data = DataSet("text", (Text("Rufus lives in Merrin.", 0),))
    scores = bench.scores(open_checkpoint(tmp_path / "mixture"), {"text": data})
    [found] = bench.coverage(scores)
    assert found.experts == 16
    assert found.reached == int((scores["text"]["experts"] > 0).sum())
    assert scores["text"]["experts"].sum() == 2 * 2 * found.longest
    assert np.all(scores["text"]["experts"] >= 0)
    assert "experts" in found.line()
