"""A GGUF header is compared with the baseline and with the model that transformers loads."""

import functools
import json
import re
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.checkpoints.compare import Sides
from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.checkpoints.gguf_header import compare, read_header
from compression_gates.evals.data.items import DataSet, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.scoring import prompts
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end import foreign
from tests.evals.checkpoints import published

gguf = pytest.importorskip("gguf")
BASE = MODELS / "llama-tiny"
SHORT = DataSet("short", (Text("Rufus lives in Merrin.", 0),))
LONG = DataSet("long", (Text("Rufus lives in Merrin. " * 40, 0),))


@pytest.fixture(autouse=True, scope="module")
def one_map_of_names():
    """transformers makes gguf's map of tensor names anew for each module of a model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
        yield


@pytest.fixture
def differences(tmp_path):
    """``differences(header, base, ...)``: findings for a file with a changed header, by severity
    and without the quantization types."""

    def find(header=lambda writer: None, base=BASE, tokenizer=True, data=SHORT, kind="Q8_0"):
        shutil.rmtree(tmp_path / "file", ignore_errors=True)
        file = foreign.gguf(kind, header, tokenizer)(base, tmp_path / "file")
        baseline = open_checkpoint(base)
        candidate = open_checkpoint(file).with_tokenizer_of(baseline)
        comparison = compare(Sides(baseline, candidate, [data]))
        assert all("\n" not in finding.text for finding in comparison.findings)
        return {
            severity: [
                text for text in comparison.of(severity) if not text.startswith("quantization")
            ]
            for severity in Severity
        }

    return find


@pytest.fixture
def base_with(tmp_path):
    """``base_with(changes)``: the shipped model with changed settings."""

    def make(generation=None, **changes):
        shutil.copytree(BASE, tmp_path / "base")
        for name, new in (("config.json", changes), ("generation_config.json", generation or {})):
            file = tmp_path / "base" / name
            file.chmod(0o644)
            file.write_text(json.dumps(json.loads(file.read_text()) | new))
        return tmp_path / "base"

    return make


NOTHING = {severity: [] for severity in Severity}
SCALED = {"rope_theta": 10000.0, "original_max_position_embeddings": 512, "factor": 4.0}
YARN = {"rope_type": "yarn", **SCALED}
LINEAR = {"rope_type": "linear", **SCALED}
LLAMA3 = {"rope_type": "llama3", **SCALED, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def set_key(key, value, add="add_float32"):
    return lambda writer: getattr(writer, add)(key, value)


def drop_key(key):
    return lambda writer: writer.kv_data[0].pop(key)


def change_list(key, change):
    """Change a list of a header when it is written."""
    return lambda writer: change(writer.kv_data[0][key].value)


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


def swap(tokens):
    tokens[400], tokens[401] = tokens[401], tokens[400]


def plain_end(types):
    types[2] = 1


def shown_end(types):
    types[2] = 4


def hidden_word(types):
    types[400] = 3


def plain_bytes(types):
    types[:] = [1 if kind == 6 else kind for kind in types]


def zero(scores):
    scores[:] = [0.0] * len(scores)


TEMPLATE = (BASE / "chat_template.jinja").read_text()


def template(text, name=""):
    return set_key(f"tokenizer.chat_template{name}", text, "add_string")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (set_key("tokenizer.ggml.model", "gpt2", "add_string"), "model is 'gpt2' in model.gguf"),
        (change_list("tokenizer.ggml.tokens", swap), "token 400 is "),
        (change_list("tokenizer.ggml.tokens", list.pop), "has 568 tokens"),
        (change_list("tokenizer.ggml.token_type", plain_end), "special token '</s>' is normal"),
        (set_key("tokenizer.ggml.add_bos_token", False, "add_bool"), "adds the bos token"),
        (set_key("tokenizer.ggml.add_eos_token", True, "add_bool"), "does not add the eos token"),
        (set_key("tokenizer.ggml.bos_token_id", 5, "add_uint32"), "bos token is 1 for the"),
        (change_list("tokenizer.ggml.token_type", shown_end), "end token '</s>' is user-defined"),
        (change_list("tokenizer.ggml.token_type", hidden_word), "is control in model.gguf"),
        (change_list("tokenizer.ggml.token_type", plain_bytes), "byte token '<0x00>' is normal"),
        (drop_key("tokenizer.ggml.token_type"), "has no token types"),
        (change_list("tokenizer.ggml.scores", zero), "the score of token"),
        (change_list("tokenizer.ggml.scores", list.reverse), "the score of token"),
        (drop_key("tokenizer.ggml.scores"), "lacks scores of some tokens"),
        (set_key("tokenizer.ggml.add_space_prefix", True, "add_bool"), "and llama.cpp adds one"),
        (drop_key("tokenizer.ggml.add_space_prefix"), "and llama.cpp adds one"),
        (set_key("tokenizer.ggml.eot_token_id", 400, "add_uint32"), "[2, 400] in the header"),
        (set_key("tokenizer.ggml.eom_token_id", 400, "add_uint32"), "[2, 400] in the header"),
        (template("{% if messages[0].role == 'system' %}Mind:{% endif %}" + TEMPLATE), "Mind:"),
        (template(TEMPLATE + "{% if tools %}{{ tools }}{% endif %}"), "with tools"),
        (template(TEMPLATE.replace("{% endif %}", "{% else %}X{% endif %}")), "on a user, "),
        (template("{{ 1 }}", ".tool_use"), "with tools"),
        (set_key("tokenizer.ggml.eos_token_id", 9, "add_uint32"), "ends at [2] for the baseline"),
        (drop_key("tokenizer.chat_template"), "only the baseline has a chat template"),
        (template("{{ messages[0] }}"), "differs on a user that asks"),
        (template("{{ nothing.at.all }}"), "the template fails: UndefinedError"),
    ],
)  # fmt: skip
def test_different_tokenization_in_llama_cpp_fails(differences, header, message):
    findings = differences(header)
    assert any(message in text for text in findings[Severity.FAILED]), findings
    assert not findings[Severity.REFUSED]


def test_slow_template_fails(differences, monkeypatch):
    monkeypatch.setattr(prompts, "RENDER_SECONDS", 0.2)
    slow = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    [text] = differences(template(slow + TEMPLATE))[Severity.FAILED]
    assert "the template fails: no end after" in text


def test_key_that_llama_cpp_ignores_is_noted(differences):
    findings = differences(set_key("tokenizer.ggml.remove_extra_whitespaces", True, "add_bool"))
    [text] = findings[Severity.NOTED]
    assert "keeps repeated spaces" in text
    assert findings[Severity.FAILED] == []


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


@pytest.fixture
def layout_differences(differences, tmp_path, monkeypatch):
    """``layout_differences(layout, pre, header)``: of a file with the tokenizer of a published
    layout, under a name of ``tokenizer.ggml.pre``."""

    def find(layout, pre, header=lambda writer: None):
        base = tmp_path / "layout"
        shutil.rmtree(base, ignore_errors=True)
        shutil.copytree(BASE, base, copy_function=shutil.copyfile)
        published.write(layout, base)
        tokenizer = AutoTokenizer.from_pretrained(base)
        for name in ("config.json", "generation_config.json"):
            ids = {
                f"{token}_token_id": getattr(tokenizer, f"{token}_token_id")
                for token in ("bos", "eos", "pad")
            }
            file = base / name
            file.write_text(json.dumps({**json.loads(file.read_text()), **ids}))

        def add(writer, base):
            described = json.loads((base / "tokenizer.json").read_text())
            known = {index: token for token, index in tokenizer.get_vocab().items()}
            added = tokenizer.added_tokens_decoder
            writer.add_tokenizer_model("gpt2" if layout in BYTE_LEVEL else "llama")
            writer.add_tokenizer_pre(pre)
            writer.add_token_list([known.get(i, f"[PAD{i}]") for i in range(max(known) + 1)])
            merges = [" ".join(m) if isinstance(m, list) else m
                      for m in described["model"]["merges"]]  # fmt: skip
            bytes_ = re.compile("<0x..>")
            kinds = [
                5 if i not in known else 3 if i in added else 6 if bytes_.fullmatch(known[i]) else 1
                for i in range(max(known) + 1)
            ]
            writer.add_token_types(kinds)
            if layout in BYTE_LEVEL:
                writer.add_token_merges(merges)
            else:
                vocab = described["model"]["vocab"]
                scores = [-1000.0] * len(kinds)
                for rank, merge in enumerate(merges):
                    index = vocab[merge.replace(" ", "")]
                    scores[index] = max(scores[index], -float(rank))
                writer.add_token_scores(scores)
                if layout is published.gemma:
                    writer.add_add_space_prefix(False)
            if tokenizer.bos_token_id is not None:
                writer.add_bos_token_id(tokenizer.bos_token_id)
            writer.add_eos_token_id(tokenizer.eos_token_id)
            writer.add_add_bos_token(tokenizer("a").input_ids[0] == tokenizer.bos_token_id)
            if tokenizer.chat_template:
                writer.add_chat_template(tokenizer.chat_template)

        monkeypatch.setattr(foreign, "_add_tokenizer", add)
        return differences(header, base=base)

    return find


BYTE_LEVEL = (published.llama_3, published.qwen_2, published.gpt_2)
ADD_BOS = "tokenizer.ggml.add_bos_token"


@pytest.mark.parametrize(
    ("layout", "pre"),
    [
        (published.llama_3, "llama-bpe"),
        (published.llama_3, "smaug-bpe"),
        (published.qwen_2, "qwen2"),
        (published.gpt_2, "gpt-2"),
        (published.llama_2, "default"),
        (published.gemma, "default"),
    ],
)
def test_healthy_file_of_a_published_layout(layout_differences, layout, pre):
    if layout is published.qwen_2:  # as its file has it, digit by digit
        layout = digit_by_digit
    findings = layout_differences(layout, pre)
    assert not findings[Severity.FAILED]
    assert not findings[Severity.REFUSED]


def digit_by_digit():
    tokenizer, config, model = published.qwen_2()
    described = json.loads(tokenizer.to_str())
    cut = described["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    cut["Regex"] = cut["Regex"].replace("{1,3}", "")
    return Tokenizer.from_str(json.dumps(described)), config, model


BYTE_LEVEL = (*BYTE_LEVEL, digit_by_digit)


@pytest.mark.parametrize("pre", ["qwen2", "default", "gpt-2", "starcoder"])
def test_different_split(layout_differences, pre):
    findings = layout_differences(published.llama_3, pre)
    [text] = findings[Severity.FAILED]
    assert f"pre is '{pre}' in model.gguf, and the baseline splits texts as llama-bpe" in text


def test_unknown_split_is_noted(layout_differences):
    findings = layout_differences(published.llama_3, "zork")
    assert not findings[Severity.FAILED]
    assert "pre is 'zork'" in findings[Severity.NOTED][0]


def test_missing_key_has_the_default_of_llama_cpp(layout_differences):
    """llama.cpp adds the bos token of Llama 3 by default."""
    assert not layout_differences(published.llama_3, "llama-bpe", drop_key(ADD_BOS))[
        Severity.FAILED
    ]
    findings = layout_differences(published.llama_3, "dbrx", drop_key(ADD_BOS))
    assert "adds the bos token, and llama.cpp does not" in findings[Severity.FAILED][0]


@pytest.mark.parametrize("change", [zero, list.reverse])
def test_scores_that_contradict_the_merges(layout_differences, change):
    header = change_list("tokenizer.ggml.scores", change)
    findings = layout_differences(published.llama_2, "default", header)
    assert any("merges in a different order" in text for text in findings[Severity.FAILED])


def test_equivalent_template_is_no_difference(differences):
    template = (BASE / "chat_template.jinja").read_text()
    header = set_key("tokenizer.chat_template", "{# a remark #}" + template, "add_string")
    assert differences(header) == NOTHING


def test_lost_end_token_fails(differences, base_with):
    base = base_with(generation={"eos_token_id": [2, 506]})
    lost = differences(base=base)
    assert "ends at [2, 506] for the baseline and [2] in the header" in lost[Severity.FAILED][0]
    assert differences(set_key("tokenizer.ggml.eot_token_id", 506, "add_uint32"), base) == NOTHING


def test_padding_is_noted(differences):
    findings = differences(set_key("tokenizer.ggml.padding_token_id", 0, "add_uint32"))
    assert findings[Severity.NOTED] == ["the pad token is 2 for the baseline and 0 in model.gguf"]
    assert not findings[Severity.FAILED]


def test_additional_tokens_are_noted_unless_unused(differences):
    def longer(token, type_):
        def header(writer):
            writer.kv_data[0]["tokenizer.ggml.tokens"].value.append(token)
            writer.kv_data[0]["tokenizer.ggml.token_type"].value.append(type_)

        return header

    assert differences(longer("[PAD576]", 5)) == NOTHING
    assert "1 tokens that the baseline lacks" in differences(longer("new", 1))[Severity.NOTED][0]


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
    from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

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
