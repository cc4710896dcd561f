"""A GGUF header is compared with the baseline and with the model that transformers loads."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.checkpoints.compare import Sides
from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.checkpoints.gguf_header import compare, read_header
from compression_gates.evals.errors import EvalError
from tests.end_to_end import foreign
from tests.evals.checkpoints.gguf_files import BASE, LONG, NOTHING, SHORT, set_key

gguf = pytest.importorskip("gguf")
SCALED = {"rope_theta": 10000.0, "original_max_position_embeddings": 512, "factor": 4.0}
YARN = {"rope_type": "yarn", **SCALED}
LINEAR = {"rope_type": "linear", **SCALED}
LLAMA3 = {"rope_type": "llama3", **SCALED, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def yarn(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(512)


def linear(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


def llama3(writer):
    """Write the scaling as llama.cpp's converter does: as a tensor, without a key."""
    turns = 512 * 10000.0 ** (-np.arange(0, 32, 2) / 32) / (2 * np.pi)
    smooth = (turns - 1) / 3
    factors = np.where(turns < 1, 4.0, np.where(turns > 4, 1.0, 1 / ((1 - smooth) / 4 + smooth)))
    writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16", "F32"])
@pytest.mark.parametrize("tokenizer", [True, False])
def test_healthy_file_has_no_difference(differences, kind, tokenizer):
    assert differences(kind=kind, tokenizer=tokenizer) == NOTHING


@pytest.mark.parametrize(
    ("parameters", "header"), [(YARN, yarn), (LINEAR, linear), (LLAMA3, llama3)]
)
def test_dropped_rope_scaling_is_refused_and_lost_rope_scaling_fails(
    differences, base_with, parameters, header
):
    base = base_with(rope_parameters=parameters)
    kept, lost = differences(header, base), differences(base=base)
    assert not kept[Severity.FAILED]
    [message] = kept[Severity.REFUSED]
    assert "does not load the rope scaling of model.gguf" in message
    assert parameters["rope_type"] in message
    assert not lost[Severity.REFUSED]
    [message] = lost[Severity.FAILED]
    assert "the rope scaling is " + parameters["rope_type"] in message
    assert "for the baseline and none in the header" in message


def test_different_factor_of_the_same_scaling(differences, base_with):
    findings = differences(yarn, base_with(rope_parameters=YARN | {"factor": 8.0}))
    assert "yarn, factor 8" in findings[Severity.FAILED][0]
    assert "yarn, factor 4" in findings[Severity.FAILED][0]


def test_llama3_factors_are_those_of_transformers(base_with):
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from compression_gates.evals.checkpoints.gguf_rope import scaling_of_config

    config = AutoConfig.from_pretrained(base_with(rope_parameters=LLAMA3))
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 10000.0 ** (-np.arange(0, 32, 2) / 32)
    assert scaling_of_config(config).factors[0] == pytest.approx(plain / frequencies.numpy())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (set_key("llama.rope.freq_base", 500000.0), "base of the rotary embedding is 10000"),
        (set_key("llama.attention.layer_norm_rms_epsilon", 1e-5), "epsilon of the normalization"),
        (set_key("llama.rope.dimension_count", 16, "add_uint32"), "rotated dimensions is 32"),
        (set_key("llama.attention.head_count", 8, "add_uint32"), "attention heads, of key heads"),
    ],
)
def test_different_computation_in_llama_cpp_fails(differences, header, message):
    assert any(message in text for text in differences(header)[Severity.FAILED])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (set_key("llama.logit_scale", 0.5), "scale of logits"),
        (set_key("llama.final_logit_softcapping", 30.0), "cap of final logits"),
        (set_key("llama.attention.scale", 0.1), "scale of attention"),
        (set_key("llama.expert_used_count", 2, "add_uint32"), "number of experts per token"),
        (set_key("llama.attention.causal", False, "add_bool"), "causal attention"),
        (lambda w: w.add_tensor("blk.0.attn_q.bias", np.ones(128, np.float32)), "attn_q.bias"),
        (lambda w: w.add_tensor("output_norm.bias", np.ones(128, np.float32)), "output_norm.bias"),
    ],
)
def test_dropped_by_the_loader_is_refused(differences, header, message):
    assert any(message in text for text in differences(header)[Severity.REFUSED])


def test_zero_bias_is_ignored(differences):
    def zeros(writer):
        writer.add_tensor("blk.0.attn_q.bias", np.zeros(128, np.float32))

    assert differences(zeros) == NOTHING


def test_shorter_context_is_refused(differences):
    findings = differences(set_key("llama.context_length", 256, "add_uint32"))
    assert "accepts at most 256 tokens, the baseline 512" in findings[Severity.REFUSED][0]
    longer = differences(set_key("llama.context_length", 4096, "add_uint32"))
    assert longer == NOTHING


def test_sliding_window_matters_for_longer_texts(differences):
    window = set_key("llama.attention.sliding_window", 100, "add_uint32")
    short, long = differences(window), differences(window, data=LONG)
    assert not short[Severity.REFUSED]
    assert "for the baseline and 100" in short[Severity.NOTED][0]
    assert short[Severity.NOTED][0].endswith("the data are shorter, so no score can show it")
    assert "does not load the sliding window" in long[Severity.REFUSED][0]


@pytest.mark.parametrize("key", ["attn_factor", "yarn_attn_factor"])
def test_attention_factor(differences, key):
    findings = differences(set_key(f"llama.rope.scaling.{key}", 2.0))
    message = "attention factor of the rotary embedding"
    assert message in findings[Severity.FAILED][0]
    assert message in findings[Severity.REFUSED][0]
    assert differences(set_key(f"llama.rope.scaling.{key}", 1.0)) == NOTHING


@pytest.mark.parametrize(
    ("parameters", "factor"),
    [
        (YARN, 1.0),
        ({**YARN, "attention_factor": 2 * (0.1 * np.log(4) + 1)}, 2.0),
        ({**YARN, "mscale": 0.7}, None),
        (LLAMA3, 1.0),
        ({"rope_type": "longrope", "original_max_position_embeddings": 128,
          "short_factor": [1.0] * 16, "long_factor": [1.0] * 16},
         np.sqrt(1 + np.log(4) / np.log(128))),
    ],
)  # fmt: skip
def test_attention_factors_of_configurations(base_with, parameters, factor):
    from transformers import AutoConfig

    from compression_gates.evals.checkpoints.gguf_rope import attention_factor_of_config

    config = AutoConfig.from_pretrained(base_with(rope_parameters=parameters))
    actual = attention_factor_of_config(config)
    assert actual is None if factor is None else actual == pytest.approx(factor)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (set_key("split.count", 3, "add_uint16"), "only this part would be loaded"),
        (set_key("general.type", "adapter", "add_string"), "give a file that contains a model"),
        (set_key("llama.rope.freq_base", "fast", "add_string"), "is not a number"),
        (set_key("general.architecture", "llama9", "add_string"), "does not load"),
        (set_key("tokenizer.ggml.tokens", [1, 2, 3], "add_array"), "cannot be compared"),
    ],
)
def test_invalid_header_is_refused_in_one_line(differences, header, message):
    with pytest.raises(EvalError, match=message) as caught:
        differences(header)
    assert "\n" not in str(caught.value)


def test_quantization_types_are_counted(tmp_path):
    file = foreign.gguf("Q4_0")(BASE, tmp_path / "file")
    assert read_header(file).quantization == "Q4_0 29, F32 9"


def mixture(base, out):
    """Write a random mixture of experts, and its GGUF file in llama.cpp's layout."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=576, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(base)
    writer = gguf.GGUFWriter(str(out), "qwen3moe")
    writer.add_vocab_size(576)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(8)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_expert_count(4)
    writer.add_expert_used_count(2)
    for name, shape in {
        "token_embd": (576, 32), "output": (576, 32), "output_norm": (32,),
        "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,), "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32),
        "blk.0.attn_q_norm": (8,), "blk.0.attn_k_norm": (8,), "blk.0.ffn_gate_inp": (4, 32),
        "blk.0.ffn_gate_exps": (4, 32, 32), "blk.0.ffn_up_exps": (4, 32, 32),
        "blk.0.ffn_down_exps": (4, 32, 32),
    }.items():  # fmt: skip
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_healthy_mixture_has_no_difference(tmp_path):
    mixture(tmp_path / "base", tmp_path / "m.gguf")
    baseline = open_checkpoint(tmp_path / "base")
    candidate = open_checkpoint(tmp_path / "m.gguf").with_tokenizer_of(baseline)
    comparison = compare(Sides(baseline, candidate, [SHORT]))
    assert [finding.kind for finding in comparison.findings] == ["quantization types"]


def test_names_with_control_characters_are_escaped(differences):
    def header(writer):
        writer.add_string("llama.rope.scaling.type", "x\n::error::y\x1b[31m")
        writer.add_float32("llama.rope.scaling.factor", 2.0)
        writer.add_tensor("evil\n::error::.bias", np.ones(2, np.float32))

    findings = differences(header)
    assert len(findings[Severity.REFUSED]) == 2
    assert all(text.isprintable() for texts in findings.values() for text in texts)
